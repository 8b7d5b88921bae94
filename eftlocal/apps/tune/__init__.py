"""`eftlocal tune`: trains a small model on examples, so that it steers a large one."""
