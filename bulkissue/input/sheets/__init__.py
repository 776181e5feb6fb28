"""
Workbooks of every kind become tables of text: `workbook.read_workbook`, and one file for each format's own words.

A value comes from the library that reads the format; what that cannot tell (a formula without a value, a date, a
format that hides digits, a hidden row) is read from the file itself. Nothing here may change a value; it only marks.
"""
