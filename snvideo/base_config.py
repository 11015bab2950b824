"""Base of every configuration section; each package declares its own beside what it configures."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A typed part of a config: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
