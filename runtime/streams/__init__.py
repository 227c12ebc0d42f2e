"""Batches that come from the host while a run goes on, and where their gradients go.

`stream` is the public class. `sources` says what a source is: `stacked_arrays` and `datasets` are
the two kinds, `refusals` what is none, `order` the rows of each batch. A batch becomes NumPy arrays
in `leaves`, and is held against the first one in `layout`. `prefetcher` reads ahead for the
executor, `checksums` catch a stream that does not give the same bytes again, `gradients` and
`gradient_files` take the gradients of batches. `memmaps` lets a stream be pickled, and
`mapped_pages` keeps what was read of a memmap out of this process's memory.
"""

from metagrad.runtime.streams.checksums import Checksums
from metagrad.runtime.streams.gradients import GradientSink, gradient_sink
from metagrad.runtime.streams.prefetcher import Prefetcher
from metagrad.runtime.streams.stream import Stream

__all__ = ["Checksums", "GradientSink", "Prefetcher", "Stream", "gradient_sink"]
