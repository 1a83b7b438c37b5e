//! The cookies of a request. Pure; allocates nothing.

/// Name and value of each cookie in one `Cookie` header, in their order; none
/// when it is not UTF-8.
pub fn cookies(header: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let header = std::str::from_utf8(header).unwrap_or_default();
    let cookies = header.split(';');
    cookies.filter_map(|cookie| cookie.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cookie_is_a_name_and_a_value() {
        let found: Vec<_> = cookies(b"a=b; io=AAAB;c; d=e=f").collect();
        assert_eq!(found, [("a", "b"), ("io", "AAAB"), ("d", "e=f")]);
        assert_eq!(cookies(b"a=\xff").count(), 0);
    }
}
