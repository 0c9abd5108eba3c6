//! One HTML page that opens from disk: text, tables, pictures, nothing from elsewhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .8rem;border-bottom:1px solid #8886;text-align:right}
th:first-child,td:first-child{text-align:left}caption,figcaption{text-align:left;color:#888;padding:.3rem 0}
figure{margin:1.5rem 0}img{max-width:100%;image-rendering:pixelated}h2{margin:2.2rem 0 .6rem}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1rem}
svg{width:100%;height:auto;border-radius:6px}pre{overflow-x:auto;font-size:.85rem}summary{cursor:pointer}";

/// A page that grows from top to bottom.
#[derive(Debug)]
pub struct Page {
    html: String,
}

impl Page {
    /// A page with a title.
    pub fn new(title: &str) -> Self {
        let title = escaped(title);
        Self {
            html: format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                 <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
                 <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
            ),
        }
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.html += &format!("<p>{}</p>\n", escaped(text));
    }

    /// Adds the heading of a part.
    pub fn heading(&mut self, text: &str) {
        self.html += &format!("<h2>{}</h2>\n", escaped(text));
    }

    /// Adds drawings, side by side where there is room.
    pub fn drawings(&mut self, svgs: &[String]) {
        self.html += &format!("<div class=\"row\">\n{}</div>\n", svgs.concat());
    }

    /// Adds text as it stands, folded away behind a line.
    pub fn folded(&mut self, summary: &str, text: &str) {
        self.html += &format!(
            "<details><summary>{}</summary><pre>{}</pre></details>\n",
            escaped(summary),
            escaped(text)
        );
    }

    /// Adds a picture, `kind` being png or gif.
    pub fn figure(&mut self, bytes: &[u8], kind: &str, caption: &str) {
        let caption = escaped(caption);
        self.html += &format!(
            "<figure><img alt=\"{caption}\" src=\"data:image/{kind};base64,{}\">\
             <figcaption>{caption}</figcaption></figure>\n",
            STANDARD.encode(bytes)
        );
    }

    /// Adds a table.
    pub fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<String>]) {
        let row = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
            let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        self.html += &format!("<table><caption>{}</caption>\n", escaped(caption));
        self.html += &row("th", &mut head.iter().copied());
        for cells in rows {
            self.html += &row("td", &mut cells.iter().map(String::as_str));
        }
        self.html += "</table>\n";
    }

    /// The whole page.
    pub fn finish(self) -> String {
        self.html + "</body></html>\n"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_pictures_are_inside() {
        let mut page = Page::new("a < b & c");
        page.table("t", &["x", "y"], &[vec!["<i>".into(), "2".into()]]);
        page.figure(b"abc", "png", "say \"hi\"");
        page.heading("p < 8");
        page.drawings(&["<svg>1</svg>".into(), "<svg>2</svg>".into()]);
        page.folded("recipe", "(a: \"<\")");
        let html = page.finish();
        for part in [
            "<h1>a &lt; b &amp; c</h1>",
            "<td>&lt;i&gt;</td><td>2</td>",
            "base64,YWJj",
            "say &quot;hi&quot;",
            "<h2>p &lt; 8</h2>",
            "<svg>1</svg><svg>2</svg></div>",
            "<pre>(a: &quot;&lt;&quot;)</pre>",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("http"));
    }
}
