"""What operators read and load agrees with the sources: the part of `scripts/accept relay` that needs no machine."""

import json
import re
import sys
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from checks import dashboards, operators_page, packaging  # noqa: E402

BLOCKS = """text
<!-- until: yes -->
```sh
one
```

```text
two 1
```
<!-- file: /a/b -->
```toml
three = 3
```
<!-- not run: why -->
```sh
four
```
```bash
five
```
"""


class Page(unittest.TestCase):
    def test_every_table_is_as_in_the_sources(self):
        text = operators_page.PAGE.read_text()
        for name, compare in operators_page.TABLES.items():
            self.assertEqual(list(compare(text)), [], name)

    def test_every_block_is_of_a_kind_that_is_checked(self):
        self.assertEqual(operators_page._stray(operators_page.PAGE.read_text()), [])

    def test_blocks_are_read_with_what_the_page_says_of_them(self):
        blocks = [{key: value for key, value in block.items() if key != "line"} for block in operators_page._blocks(BLOCKS)]
        self.assertEqual(
            blocks,
            [
                {"kind": "sh", "body": "one\n", "until": "yes"},
                {"kind": "text", "body": "two 1\n"},
                {"kind": "file", "body": "three = 3\n", "file": "/a/b"},
                {"kind": "sh", "body": "four\n", "not run": "why"},
            ],
        )
        self.assertEqual(operators_page._stray(BLOCKS), ["line 18: bash"])

    def test_a_command_that_fails_and_an_answer_that_differs_are_seen(self):
        answer = lambda code, output: lambda *_, **__: types.SimpleNamespace(returncode=code, stdout=output)
        machine = types.SimpleNamespace(run=answer(3, "no such thing"))
        self.assertIn("exit code 3", operators_page._do(machine, {"kind": "sh", "line": 1, "body": "x"})["result"])
        machine.run = answer(0, "listed yes\nrole mix\n")
        self.assertEqual(operators_page._do(machine, {"kind": "sh", "line": 1, "body": "x", "until": "listed yes"})["result"], "yes")
        self.assertEqual(operators_page._do(machine, {"kind": "text", "line": 1, "body": "role entry\nlisted no\n"})["result"], "yes")
        self.assertIn("colour", operators_page._do(machine, {"kind": "text", "line": 1, "body": "colour red\n"})["result"])


class Packages(unittest.TestCase):
    def test_the_units_differ_in_names_only(self):
        self.assertTrue(packaging._alike())


class Dashboards(unittest.TestCase):
    def test_the_limits_in_the_rules_are_those_of_the_relay(self):
        rules = dashboards.RULES.read_text()
        for name, constant in dashboards.LIMITS.items():
            self.assertEqual(dashboards._limit_in_rules(rules, name), dashboards._limit_in_source(constant), name)

    def test_the_board_has_no_faults_and_a_broken_one_has(self):
        board = json.loads(dashboards.BOARD.read_text())
        self.assertEqual(dashboards._faults_of_board(board), [])
        for panel in board["panels"][1:3]:
            panel["gridPos"] = board["panels"][1]["gridPos"]
        self.assertEqual(dashboards._faults_of_board(board), ["two panels overlap"])

    def test_board_and_rules_name_metrics_of_the_relay_only(self):
        source = (dashboards.ROOT / "relay/src/metrics.rs").read_text()
        board = dashboards.BOARD.read_text()
        for name in set(re.findall(dashboards.METRIC, dashboards._code(dashboards.RULES.read_text()) + board)):
            self.assertIn(f'"{dashboards._whole(name)}"', source)


if __name__ == "__main__":
    unittest.main()
