"""The registered model that ``fer predict``, ``fer live`` and ``fer_lib.load`` use by default."""

NAME = "fer-student"
ALIAS = "champion"  # under every registered name, the alias of a model for photos
URI = f"models:/{NAME}@{ALIAS}"
