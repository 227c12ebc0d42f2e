"""The error that everything about Enzyme raises."""


class EnzymeError(RuntimeError):
    """Enzyme could not differentiate a function, or its library could not be found or used.

    The message names the function and has the library's own words.

    Attributes:
      function: name of the module's function, once the compiler has told.
    """

    function: str | None = None
