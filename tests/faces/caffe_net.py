"""A tiny SSD in Caffe's format, weights and net, that takes blue for a face: the head of the real one on a 3 x 3 grid.

Each of nine cells of 100 pixels has one prior box of its own size; its score is a logistic of how blue it is after the
mean was taken off.  So what it finds tells whether scale, mean, order of channels and boxes are right.
"""

import struct

NET = """
name: "blue"
input: "data"
input_shape { dim: 1 dim: 3 dim: 300 dim: 300 }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: AVE kernel_size: 100 stride: 100 } }
layer { name: "loc" type: "Convolution" bottom: "pool" top: "loc"
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" flatten_param { axis: 1 } }
layer { name: "conf" type: "Convolution" bottom: "pool" top: "conf"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_perm" top: "conf_flat" flatten_param { axis: 1 } }
layer { name: "prior" type: "PriorBox" bottom: "pool" bottom: "data" top: "prior"
  prior_box_param { min_size: 100 clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 step: 100 } }
layer { name: "conf_rows" type: "Reshape" bottom: "conf_flat" top: "conf_rows"
  reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "conf_soft" type: "Softmax" bottom: "conf_rows" top: "conf_soft" softmax_param { axis: 2 } }
layer { name: "conf_line" type: "Flatten" bottom: "conf_soft" top: "conf_line" flatten_param { axis: 1 } }
layer { name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_line" bottom: "prior" top: "found"
  detection_output_param { num_classes: 2 share_location: true background_label_id: 0 code_type: CENTER_SIZE
    nms_param { nms_threshold: 0.45 top_k: 400 } keep_top_k: 200 confidence_threshold: 0.01 } }
"""
FIRST_TWO = NET[: NET.index('layer { name: "loc_perm"')]  # a net, but no detector


def _varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def _field(number, payload):
    """A length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _blob(shape, values):
    dims = b"".join(map(_varint, shape))
    return _field(7, _field(7, _field(1, dims)) + _field(5, struct.pack(f"<{len(values)}f", *values)))


def weights(blue=0.1):
    """The caffemodel's bytes: ``loc`` moves no box; ``conf`` gives a cell ``blue`` for each level of blue above 0."""
    loc = _blob((4, 3, 1, 1), [0.0] * 12) + _blob((4,), [0.0] * 4)
    conf = _blob((2, 3, 1, 1), [0.0, 0.0, 0.0, blue, 0.0, 0.0]) + _blob((2,), [0.0, 0.0])
    layers = (("loc", loc), ("conf", conf))
    return b"".join(_field(100, _field(1, name.encode()) + _field(2, b"Convolution") + blobs) for name, blobs in layers)


def write(folder, net=NET, name="blue"):
    """Both files in ``folder``; the caffemodel's path."""
    (folder / f"{name}.prototxt").write_text(net)
    (folder / f"{name}.caffemodel").write_bytes(weights())
    return folder / f"{name}.caffemodel"
