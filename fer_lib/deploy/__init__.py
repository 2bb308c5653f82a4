"""Models out of the house: ONNX files, prediction, the MLflow model.

onnx_file.py      writes a model's ONNX file, and those of a finished fit; onnx_compact.py: int8 weights
onnx_parity.py    compares an ONNX file with the torch model
bundle_export.py  the export phase: ranks candidates and puts the exported bundle together; latency.py times it
predict.py        images in, calibrated probabilities out; packaged.py: the model that ships
photo_figure.py   a photo with predictions on its faces
pyfunc.py         the bundle as an MLflow model
"""
