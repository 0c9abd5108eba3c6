use crate::Error;

/// The one place that knows token numbers: codes, then classes, then the null class, then the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    pub(crate) codes: usize,
    pub(crate) classes: usize,
    pub(crate) null_class: bool,
}

impl Vocabulary {
    /// Rows of the token table.
    pub fn size(&self) -> usize {
        self.codes + self.classes + usize::from(self.null_class) + 1
    }

    /// Number of codes, V.
    pub fn codes(&self) -> usize {
        self.codes
    }

    /// Number of classes, C.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Token of a class.
    pub fn class(&self, class: usize) -> Result<u32, Error> {
        if class < self.classes {
            Ok((self.codes + class) as u32)
        } else {
            Err(Error::Class { class, classes: self.classes })
        }
    }

    /// Token of the null class; the mask token where the vocabulary has none.
    pub fn null(&self) -> u32 {
        if self.null_class { (self.codes + self.classes) as u32 } else { self.mask() }
    }

    /// Token of a masked position: the last row.
    pub fn mask(&self) -> u32 {
        (self.size() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_published_vocabularies() {
        let maskgit = Vocabulary { codes: 1024, classes: 1000, null_class: false };
        assert_eq!((maskgit.size(), maskgit.mask(), maskgit.class(0).unwrap()), (2025, 2024, 1024));
        assert_eq!(maskgit.null(), 2024);
        let ucf = Vocabulary { codes: 1024, classes: 101, null_class: true };
        assert_eq!((ucf.size(), ucf.null(), ucf.mask()), (1127, 1125, 1126));
        assert!(ucf.class(101).is_err());
    }
}
