"""What tests of the reading of files share: files taken in, and what became of them."""

import io

import polars as pl
import xlsxwriter

TARGET = "production/earn/promotion=69218 production/earn/promo=DIWALI26"
OWN = {
    "_bi_source_file": pl.String(),
    "_bi_row": pl.UInt64(),
    "_bi_reason": pl.String(),
    "_bi_message": pl.String(),
    "_bi_attempts": pl.UInt32(),
}


class Taken:
    """What `take_in` said and wrote."""

    def __init__(self, said, frame):
        self.said, self.frame = said, frame
        self.file = said.files[0]

    def rows(self, *columns):
        return self.frame.select(*columns).rows()

    def cells(self):
        return self.frame.select(self.said.columns).rows()


def workbook(fill):
    bytes_ = io.BytesIO()
    with xlsxwriter.Workbook(bytes_, {"in_memory": True}) as book:
        fill(book)
    return bytes_.getvalue()
