"""Models out of the house: ONNX files, prediction, the MLflow model.

export.py    the export phase and a fit's files; onnx_export.py: ONNX export with its parity check; latency.py
predict.py   images in, calibrated probabilities out; packaged.py: the model that ships
photo_figure.py  a photo with predictions on its faces
pyfunc.py    the bundle as an MLflow model
"""
