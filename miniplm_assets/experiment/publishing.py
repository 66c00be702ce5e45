"""What an experiment may say of what is published of it."""

from pydantic import Field

from miniplm_assets.experiment.settings import Name, Settings


class Published(Settings):
    """One thing that is published."""

    license: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.+-]*$",
        description="that its card states, as the hub names it, such as apache-2.0; default: none is stated",
    )


class Publishing(Settings):
    """Of what a folder is written as the Hugging Face hub has them; nothing is sent anywhere."""

    students: dict[Name, Published] = Field({}, description="students, each seed a folder")
    selections: dict[Name, Published] = Field({}, description="selections, for their refined corpora")
