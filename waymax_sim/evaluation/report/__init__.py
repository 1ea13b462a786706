"""Parts of the HTML report: markup, charts, the table of scenes, and viewers of scenes."""
