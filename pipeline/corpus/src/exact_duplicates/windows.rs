//! What the rules of removal ask of an engine: which windows are equal.

/// Windows in a row whose classes are in a row too: the window at `first + i` is of class `class + i`, for `i` below `len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassRun {
    pub first: usize,
    pub len: usize,
    pub class: usize,
}

impl ClassRun {
    /// Takes windows off its beginning.
    pub fn advance(&mut self, num_windows: usize) {
        self.first += num_windows;
        self.len -= num_windows;
        self.class += num_windows;
    }
}

/// The windows that occur more than once, by class. Two windows have the same class exactly if their bytes are equal.
pub trait WindowClasses {
    /// Every window that occurs more than once, from left to right. A run lies in one document.
    fn runs(&self) -> impl Iterator<Item = ClassRun>;
}
