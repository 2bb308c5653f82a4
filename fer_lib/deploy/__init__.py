"""Models out of the house: ONNX files, prediction, the MLflow model.

onnx_file.py      writes a model's ONNX file and those of a finished fit; onnx_parity.py compares it with torch
onnx_compact.py   a smaller ONNX file with int8 weights
bundle_export.py  the export phase: ranks candidates and puts the exported bundle together; latency.py times it
predict.py        images in, calibrated probabilities out; packaged.py: the model that ships
photo_figure.py   a photo with predictions on its faces
pyfunc.py         the bundle as an MLflow model
"""
