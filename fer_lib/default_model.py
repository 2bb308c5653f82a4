"""The registered model that ``fer predict``, ``fer live`` and ``fer_lib.load`` use where none is named."""

NAME = "fer-student"
ALIAS = "champion"  # under every registered name, the alias of a model that is meant for photos
URI = f"models:/{NAME}@{ALIAS}"
