//! Names that are taken, and names that are not.

use std::collections::{HashMap, HashSet};

/// One namespace of a graph.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    // Where the search for a free suffix starts, so that a thousand nodes of one name cost no more than one.
    next: HashMap<String, usize>,
}

impl Names {
    /// Takes a name that somebody else chose; false when it is taken already.
    pub(crate) fn claim(&mut self, name: &str) -> bool {
        self.taken.insert(name.to_owned())
    }

    /// Gives a name back.
    pub(crate) fn release(&mut self, name: &str) {
        self.taken.remove(name);
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.taken.contains(name)
    }

    /// Takes `base`, or `base_1`, `base_2`, ... when that is taken.
    pub(crate) fn fresh(&mut self, base: &str) -> String {
        if self.taken.insert(base.to_owned()) {
            return base.to_owned();
        }
        let next = self.next.entry(base.to_owned()).or_insert(1);
        loop {
            let name = format!("{base}_{next}");
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_names_differ_from_each_other_and_from_claimed_ones() {
        let mut names = Names::default();
        assert!(names.claim("/Add_1"));
        assert!(!names.claim("/Add_1"));
        assert_eq!(names.fresh("/Add"), "/Add");
        assert_eq!(names.fresh("/Add"), "/Add_2");
        assert_eq!(names.fresh("/Add_1"), "/Add_1_1");
        assert_eq!(names.fresh("/Add"), "/Add_3");
    }
}
