"""How the build says no."""

from nitrosigner.verdicts import Code, Verdict


class NotBuilt(Verdict):
    """There is no image, and nothing half-made was left where one is expected."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(Code.INTERNAL, message, hint)
