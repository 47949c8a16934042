"""
A module for each verb: its arguments and what it does.

``add_arguments(parser)`` fills the parser of the verb, ``run(arguments, signals)`` does it and
returns the exit code. `fibackup.cli.parser` has the table of the verbs; a module is imported when
its verb is asked for.
"""
