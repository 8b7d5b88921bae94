"""`eftlocal chat` (`repl.chat`) and `eftlocal sessions` (`manage`), which needs little of the rest."""
