"""One tool, and what it is called with; the same words are a structured output."""

from pydantic import BaseModel


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


TOKYO = Weather(city="東京 🗼", degrees=21)
PIECES = ('{"city":"東', "京 🗼", '","degrees":', "21}")
"""The JSON of TOKYO as a model writes it, token by token."""
JSON = "".join(PIECES)
