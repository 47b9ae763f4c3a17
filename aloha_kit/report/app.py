"""Writing of the report page."""

from __future__ import annotations

from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, write_text
from aloha_kit.report.args import ReportArgs
from aloha_kit.report.page import build


def run(args: ReportArgs) -> None:
    """Write the page and print where it is.

    Raises:
        AlohaKitError: nothing to report on, a damaged file, or a page that cannot be written.
    """
    page = build(args.folder)
    file = args.output or args.folder / "report.html"
    make_folder(file.parent)
    try:
        write_text(file, page)
    except OSError as error:
        raise ConfigError("cannot write '{file}': {reason}", file=file, reason=error.strerror) from error
    print(file)
