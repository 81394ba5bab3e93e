use std::ops::Range;

/// Finds the items of a JSON list in a stream of bytes, without reading what they hold.
#[derive(Debug)]
pub(crate) struct ListScanner {
    position: u64,
    line: u64,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    item: Option<Item>,
    is_over: bool,
}

/// The beginning of an item.
#[derive(Debug, Clone, Copy)]
struct Item {
    start: u64,
    line: u64,
}

/// What a list that cannot be split suffers from.
pub(crate) type ListError = (u64, &'static str);

impl ListScanner {
    /// A scanner of what begins at byte `position`, in line 1.
    pub(crate) fn new(position: u64) -> Self {
        Self {
            position,
            line: 1,
            depth: 0,
            in_string: false,
            is_escaped: false,
            item: None,
            is_over: false,
        }
    }

    /// Takes the next byte. Gives the bytes and the first line of an item that has ended before it.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<(Range<u64>, u64)>, ListError> {
        let ended = if self.in_string {
            self.push_in_string(byte);
            None
        } else {
            self.push_outside(byte)?
        };
        self.position += 1;
        self.line += u64::from(byte == b'\n');
        Ok(ended)
    }

    /// Checks that the list has ended.
    pub(crate) fn finish(&self) -> Result<(), ListError> {
        match (self.is_over, self.item) {
            (true, _) => Ok(()),
            (false, Some(item)) => Err((item.line, "the record that begins here does not end")),
            (false, None) => Err((self.line, "the list does not end; add `]`")),
        }
    }

    fn push_in_string(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }

    fn push_outside(&mut self, byte: u8) -> Result<Option<(Range<u64>, u64)>, ListError> {
        if byte.is_ascii_whitespace() {
            return Ok(None);
        }
        if self.is_over {
            return Err((self.line, "more text after the end of the list; take it out"));
        }
        let ends_item = self.depth == 1 && matches!(byte, b',' | b']' | b'}');
        let ended = if ends_item { self.item.take() } else { None };
        if self.depth == 1 && !ends_item {
            let (start, line) = (self.position, self.line);
            self.item.get_or_insert(Item { start, line });
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => {
                self.depth -= 1;
                self.is_over = self.depth == 0;
            }
            _ => {}
        }
        Ok(ended.map(|item| (item.start..self.position, item.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<(&str, u64)>, ListError> {
        let mut scanner = ListScanner::new(0);
        let mut items = Vec::new();
        for byte in text.bytes() {
            if let Some((bytes, line)) = scanner.push(byte)? {
                items.push((&text[bytes.start as usize..bytes.end as usize], line));
            }
        }
        scanner.finish().map(|()| items)
    }

    #[test]
    fn items_are_found_with_their_lines() {
        let text = "[\n  {\"a\": \"]},\\\"\"},\n  {\"b\": [1, {\"c\": 2}]}, 3\n]\n";
        let expected = [
            ("{\"a\": \"]},\\\"\"}", 2),
            ("{\"b\": [1, {\"c\": 2}]}", 3),
            ("3\n", 3),
        ];
        assert_eq!(items(text).unwrap(), expected);
        assert_eq!(items("[ ]").unwrap(), []);
    }

    #[test]
    fn lists_that_do_not_end_are_named() {
        assert_eq!(
            items("[1,\n{\"a\": "),
            Err((2, "the record that begins here does not end"))
        );
        assert_eq!(items("[1,"), Err((1, "the list does not end; add `]`")));
        assert_eq!(
            items("[1]\nx"),
            Err((2, "more text after the end of the list; take it out"))
        );
    }
}
