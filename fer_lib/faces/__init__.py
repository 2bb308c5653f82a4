"""From a photo to the input of a model.

decode.py                bytes to pixels
detectors.py             finds faces: yunet.py, ssd.py, Haar; detection.py: what all share; align.py
contract.py              the face contract: square crop, resize, CLAHE, normalisation
augment.py               training augmentation
"""
