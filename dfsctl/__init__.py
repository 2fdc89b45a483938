"""The command line `dfsctl`: one file per group of commands. It knows only the library.

`__main__` runs a command and turns what it raises into words, JSON and an exit code; `commands` is the table
of all commands; `shell` makes them lazy and gives each the options that may stand anywhere; `output` and
`errors` are the two ways to say something. stdout is data, stderr is talk.
"""
