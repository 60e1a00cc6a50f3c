"""What the steps of a run proposed, and what the target took of it."""
import html
import json

_BOX = "display:inline-block;margin:1px;padding:0 4px;border-radius:3px;font-family:monospace;white-space:pre;color:#111;"
_COLOURS = {"target": "#f4d58d", "root": "#ddd", "draft": "#8fd19e", "merged": "#7fc8d8", "history": "#b6a6e9"}
_SHOWN = str.maketrans({" ": "\u00b7", "\n": "\u21b5", "\t": "\u21e5"})


def _box(text, colour, title, faded=False):
    style = _BOX + "background:%s;" % colour + ("opacity:.45;" if faded else "")
    return '<span style="%s" title="%s">%s</span>' % (style, html.escape(title, True), html.escape(text.translate(_SHOWN)))


class Trace(list):
    """The steps of a run, each a dict as the records of `gsd generate --record` hold it (docs/guide.md): "tree" with what was
    verified, "path" with what of it was accepted, "emitted", "graph", times. In a notebook it draws itself: a tree for each
    step, the target's own path in full colour.
    """

    shown = 40  # steps that are drawn, the last ones

    def save(self, path):
        """Writes a record, for `gsd trace`."""
        with open(path, "w", encoding="utf-8") as file:
            for line in [{"gsd_record": 1, "target": "", "draft": "", "prompt": ""}] + list(self):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _repr_html_(self):
        steps = list(enumerate(self, 1))[-self.shown :]
        emitted = sum(len(s["emitted"]) for s in self)
        verified = sum(len(s["tree"]) - 1 for s in self)
        head = "%d steps, %d tokens emitted, %d verified" % (len(self), emitted, verified)
        if len(steps) < len(self):
            head += "; the last %d steps" % len(steps)
        keys = "".join(_box(name, colour, name) for name, colour in _COLOURS.items())
        rows = "".join(self._row(number, step) for number, step in steps)
        return "<div><p>%s. %s</p><table>%s</table></div>" % (head, keys, rows)

    def _row(self, number, step):
        said = "".join(
            _box(t["text"], _COLOURS.get(t["origin"], "#ccc"), "%s, margin %.3g" % (t["origin"], t["margin"] or 0))
            for t in step["emitted"]
        )
        cells = [str(number), said, self._tree(step), "%.1f ms" % step["total_ms"]]
        return "<tr>%s</tr>" % "".join('<td style="text-align:left;vertical-align:top">%s</td>' % c for c in cells)

    @staticmethod
    def _tree(step):
        """Each node with its children to the right of it; from the last to the first, since parents come first."""
        tree, accepted = step["tree"], set(step["path"]) | {0}
        below = [""] * len(tree)
        for i in range(len(tree) - 1, -1, -1):
            node = tree[i]
            title = "%s, p %.2f" % (node["origin"], node["p"]) + "".join(", " + d for d in node["drafters"])
            box = _box(node["text"], _COLOURS.get(node["origin"], "#ccc"), title, faded=i not in accepted)
            below[i] = '<div style="display:flex;align-items:flex-start">%s<div>%s</div></div>' % (box, below[i])
            if node["parent"] >= 0:
                below[node["parent"]] = below[i] + below[node["parent"]]
        return below[0]
