//! How the process keeps memory that was freed.
#![allow(unsafe_code)]

/// Keeps freed blocks in the process instead of giving each large one back to the kernel, in one place for all threads; to be
/// called before any thread starts.
///
/// Tensors are large and short-lived: without the thresholds every one costs fresh pages, measured on a
/// 135M-parameter model a tenth of the training step. Places of their own for threads would each keep blocks that
/// the others could use: the quickstart's run peaked at 104 to 109 MiB with them, at 78 without. Does nothing where the C
/// library is not GNU's.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const BYTES: libc::c_int = 1 << 30;
        // SAFETY: mallopt only stores its argument, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, BYTES);
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Bytes between two blocks that still count as one range.
#[cfg(target_os = "linux")]
const GAP: usize = 1 << 20;
/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Puts blocks (address, bytes) that live long and are read often on huge pages, where the system has them.
///
/// Sampling reads every weight for every token, and with pages of 4 KiB the processor also looks up where each lies: docs/measurements.md
/// has what this gains. What lies between neighbouring blocks goes with them. The kernel copies the blocks once; a system that
/// refuses loses speed only.
pub(crate) fn on_huge_pages(mut blocks: Vec<(usize, usize)>) {
    #[cfg(target_os = "linux")]
    {
        /// `MADV_COLLAPSE` of Linux 6.1.
        const COLLAPSE: libc::c_int = 25;
        blocks.sort_unstable();
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for (start, bytes) in blocks {
            match ranges.last_mut() {
                Some((_, end)) if start <= *end + GAP => *end = (*end).max(start + bytes),
                _ => ranges.push((start, start + bytes)),
            }
        }
        for (start, end) in ranges {
            let (start, end) = (start.next_multiple_of(HUGE), end / HUGE * HUGE);
            if start < end {
                // SAFETY: advice on this process's own memory; it changes where bytes lie, never what they are.
                unsafe {
                    let address = start as *mut libc::c_void;
                    libc::madvise(address, end - start, libc::MADV_HUGEPAGE);
                    libc::madvise(address, end - start, COLLAPSE);
                }
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    blocks.clear();
}
