"""From a photo to the input of a model.

decode.py                bytes to pixels
detectors.py             finds faces: Haar here, yunet.py and ssd.py; detector_interface.py: what all share
align.py                 turns a face so that its eyes are level
contract.py              the face contract: square crop, resize, CLAHE, normalisation
augment.py               training augmentation
"""
