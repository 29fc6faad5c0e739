"""What a person sees who has only a file and a shell: spec/config.md 2.3 and 19."""

import json
import os
import re
import subprocess
import unittest

from ebbtest import case, configs, ports, procfs, programs

COMMA = re.compile(r"bridge\.as-printed\.json:11:7: error: \$\.outbounds\[0\]: ")


@case.beyond_v2ray
class CommandLine(case.ProgramCase):
    def ebbgate(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
        """Runs it to its end, both outputs in .stdout."""
        return subprocess.run([programs.ebbgate_binary(), *arguments], input=stdin, text=True, timeout=20,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.directory,
                              env={**os.environ, "RUNTIME_DIRECTORY": self.directory}, check=False)

    def write(self, name: str, text: str) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def seeds(self, ending: str) -> list[str]:
        names = sorted(n for n in os.listdir(configs.SEEDS) if n.endswith(ending))
        self.assertTrue(names)
        return [os.path.join(configs.SEEDS, n) for n in names]

    def test_every_seed_is_good(self):
        for path in self.seeds(".local.json") + self.seeds(".portal.json") + self.seeds(".bridge.json"):
            done = self.ebbgate("test", "-c", path)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn("Configuration OK.", done.stdout)

    def test_v2rays_own_way_of_asking(self):
        path = self.seeds(".portal.local.json")[0]
        for words in (("-test", "-config", path), ("-test", "-config=" + path), ("--test", "--config", path),
                      ("run", "-test", "-c", path)):
            done = self.ebbgate(*words)
            self.assertEqual((words, done.returncode), (words, 0), done.stdout)
            self.assertIn("Configuration OK.", done.stdout)

    def test_missing_comma_of_the_printed_seeds_is_pointed_at(self):
        """The documentation prints no comma between two members: line 11, column 7, as V2Ray counts too."""
        for path in self.seeds(".as-printed.json"):
            done = self.ebbgate("test", "-c", path)
            self.assertEqual(done.returncode, 23, done.stdout)
            self.assertRegex(done.stdout, COMMA)
            self.assertIn("comma", done.stdout)
            self.assertIn('"out"', done.stdout)

    def test_every_bad_file_is_refused_with_a_place(self):
        folder = os.path.join(configs.ROOT, "tests", "vectors", "configs", "bad")
        with open(os.path.join(folder, "expected.json"), encoding="utf-8") as f:
            refused = [e for e in json.load(f) if e["ours"].get("run") == "refuse"]
        self.assertGreater(len(refused), 40)
        for entry in refused:
            done = self.ebbgate("test", "-c", os.path.join(folder, entry["file"]))
            self.assertEqual((entry["file"], done.returncode), (entry["file"], 23), done.stdout)
            self.assertRegex(done.stdout, rf"{re.escape(entry['file'])}:\d+:\d+: error: ")

    def test_running_a_bad_file_is_23_names_every_fault_and_starts_nothing(self):
        port, wrong = ports.free_port(), "freedon"
        text = configs.portal(port, 70002, 20003)
        text = text.replace('"rules"', '"domainStrategy": "Sometimes", "rules"').replace('"dokodemo-door"', f'"{wrong}"')
        done = self.ebbgate("run", "-c", self.write("bad.json", text))
        self.assertEqual(done.returncode, 23, done.stdout)
        for fault in ("70002", "Sometimes", wrong):
            self.assertIn(fault, done.stdout)
        self.assertFalse(procfs.listening(port))
        self.assertEqual(os.listdir(self.directory), ["bad.json"], "no lock, no socket")

    def test_running_a_file_that_is_not_json_is_23_too(self):
        self.assertEqual(self.ebbgate("run", "-c", self.seeds(".as-printed.json")[0]).returncode, 23)

    def test_log_file_that_cannot_be_written_is_named(self):
        text = configs.portal(ports.free_port(), ports.free_port(), 1, {"log": {"error": "/no/such/folder/error.log"}})
        done = self.ebbgate("run", "-c", self.write("log.json", text))
        self.assertEqual(done.returncode, 23, done.stdout)
        self.assertIn("$.log.error", done.stdout)
        self.assertIn("/no/such/folder/error.log", done.stdout)

    def test_meaning_errors_name_place_value_and_remedy(self):
        text = configs.portal(20001, 20002, 20003).replace('"dokodemo-door"', '"dokodemo"')
        done = self.ebbgate("test", "-c", self.write("typo.json", text))
        self.assertEqual(done.returncode, 23, done.stdout)
        line = 1 + text[:text.index('"dokodemo"')].count("\n")
        self.assertRegex(done.stdout, rf"typo\.json:{line}:\d+: error: \$\.inbounds\[0\]\.protocol: .*\"dokodemo\"")
        self.assertIn('did you mean "dokodemo-door"?', done.stdout)

    def test_all_problems_in_one_run_and_no_secret_among_them(self):
        text = configs.portal(20001, 20002, 20003).replace("20001", "70001").replace("20002", "70002")
        text = text.replace(configs.UUID, configs.UUID[:-2] + "zz")
        done = self.ebbgate("test", "-c", self.write("bad.json", text))
        self.assertEqual(done.returncode, 23, done.stdout)
        self.assertGreaterEqual(done.stdout.count(": error: "), 3, done.stdout)
        self.assertIn("70001", done.stdout)
        self.assertIn("70002", done.stdout)
        self.assertNotIn(configs.UUID[4:-2], done.stdout)

    def test_missing_file_is_23(self):
        done = self.ebbgate("test", "-c", "nowhere.json")
        self.assertEqual(done.returncode, 23, done.stdout)
        self.assertIn("nowhere.json", done.stdout)

    def test_wrong_usage_is_2(self):
        for words in (("--no-such-flag",), ("run", "--no-such-flag"), ("no-such-command",)):
            done = self.ebbgate(*words)
            self.assertEqual((words, done.returncode), (words, 2), done.stdout)

    def test_configuration_from_standard_input(self):
        with open(self.seeds(".portal.local.json")[0], encoding="utf-8") as f:
            done = self.ebbgate("test", "-c", "stdin:", stdin=f.read())
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_version_and_uuid(self):
        self.assertRegex(self.ebbgate("version").stdout, r"(?i)ebbgate \d+\.\d+")
        self.assertRegex(self.ebbgate("uuid").stdout.strip(), r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")

    def test_dump_masks_secrets(self):
        done = self.ebbgate("dump", "-c", self.seeds("000-en.portal.local.json")[0])
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("test.v2ray.com", done.stdout)
        self.assertNotIn(configs.UUID, done.stdout)


if __name__ == "__main__":
    unittest.main()
