"""Networks, losses and what is stored of a model.

classifier.py   a timm backbone, an embedding, one head; weights.py: where starting weights come from
published_weights.py  packages of weights, their origin and terms; faceres.py: the conversion of one
losses.py       ArcFace, KD, DKD, negative learning, class weights
nested.py       residual blocks and the prototype loss of nested learning
bundle.py       weights, face contract, temperature, ids and metrics in one verified folder; bundle_format.py
softlabels.py   logits of teachers; softlabels_format.py: their files; softlabels_result.py: as tables, and in a run
ensemble.py     weighted mixes and their ranking; ensemble_folder.py: on disk; inference.py: logits over packed faces
"""
