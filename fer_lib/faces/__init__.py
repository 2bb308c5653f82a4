"""From a photo to the input of a model.

decode.py                bytes to pixels
detectors.py             finds faces: Haar and SSD here, yunet.py; detector_interface.py: what all share
align.py                 turns a face so that its eyes are level
contract.py              the face contract: square crop, resize, CLAHE, normalisation
augment.py               training augmentation
"""
