"""What holds open files, and so can't be copied."""

from typing import NoReturn


class Handle:
    """Refuses to be copied and pickled, as a copy would close the files of the other one."""

    def __reduce__(self) -> NoReturn:
        """For copy, deepcopy and pickle.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"a {type(self).__name__} can't be copied or pickled, as it holds open files; open the "
            "log where you need it"
        )
