"""Checks that need what only a program linked with the crates can do: they are Rust tests, run by name, one at a time. A
name that runs no test has failed. Figures that a test prints, `figure: NAME | VALUE | UNIT | GOAL`, are shown beside its
verdict, and judged by its goal and by what the long form asks for."""

import os
import re
import subprocess
from dataclasses import dataclass, field

from checks import ROOT, Check, Fault, changed
from report import row


@dataclass
class Suite:
    """Tests of one binary."""

    package: str
    # The file in the package's `tests`, or "" for the unit tests of its program.
    binary: str
    # What must be shown, and the test that shows it.
    wanted: list
    # Variables for the long form.
    long: dict = field(default_factory=dict)


class ByTest(Check):
    def __init__(self, name, title, suites, floors=None):
        super().__init__(name, title, offline=True)
        self.suites = suites
        # What the long form must reach: a figure's name, and its goal.
        self.floors = floors or {}

    def measure(self, network, options):
        results = []
        for suite in self.suites:
            output = _cargo(suite, {} if options.short else suite.long)
            # One that did not run is in no line, and so has not passed.
            passed = set(re.findall(r"^test (\S+) \.\.\. ok$", output, re.MULTILINE))
            told = figures(output)
            results += [{"what": what, "test": test, "passed": test in passed, "figures": told.get(test, [])} for what, test in suite.wanted]
        return {"results": results}

    def judge(self, evidence, options):
        rows, missing = [], {} if options.short else dict(self.floors)
        for result in evidence["results"]:
            rows.append(row(f"{self.name}: {result['what']}", "yes" if result["passed"] else f"no, see {result['test']}", goal="= yes"))
            for name, value, unit, goal in result["figures"]:
                rows.append(row(f"    {name}", value, unit, goal))
                if name in missing:
                    rows[-1] = row(f"    {name}", value, unit, missing.pop(name))
        return rows + [row(f"    {name}: not told by any test", 0, "", goal) for name, goal in missing.items()]

    def sample(self):
        results = [{"what": what, "test": test, "passed": True, "figures": []} for suite in self.suites for what, test in suite.wanted]
        told = [["something small", 1, "ms", "<= 2"]]
        for start, goal in self.floors.items():
            told.append([start, float(goal.split()[1]), "", ""])
        results[0]["figures"] = told
        return {"results": results}

    def faults(self, evidence):
        first, *rest = evidence["results"]
        yield Fault("a test that fails or is not there", changed(evidence, results=[{**first, "passed": False}, *rest]), f"{self.name}: {first['what']}")
        worse = [["something small", 3, "ms", "<= 2"], *first["figures"][1:]]
        yield Fault("a figure beyond its goal", changed(evidence, results=[{**first, "figures": worse}, *rest]), "    something small")
        for start in self.floors:
            fewer = [[name, 1 if name == start else value, unit, goal] for name, value, unit, goal in first["figures"]]
            yield Fault(f"too little: {start}", changed(evidence, results=[{**first, "figures": fewer}, *rest]), f"    {start}")
            silent = [told for told in first["figures"] if told[0] != start]
            yield Fault(f"not told: {start}", changed(evidence, results=[{**first, "figures": silent}, *rest]), f"    {start}")


def figures(output):
    """What each test told, from the output of `cargo test -- --show-output`."""
    told, test = {}, None
    for line in output.splitlines():
        if match := re.match(r"---- (\S+) stdout ----$", line):
            test = match.group(1)
        elif match := re.match(r"figure: ([^|]+) \| ([^|]+) \| ([^|]*) \| ([^|]*)$", line):
            name, value, unit, goal = (part.strip() for part in match.groups())
            told.setdefault(test, []).append([name, float(value), unit, goal])
    return told


def _cargo(suite, variables):
    place = ["--test", suite.binary] if suite.binary else ["--bins"]
    words = ["test", "--locked", "-p", suite.package, *place, "--", "--exact", "--show-output", "--test-threads=1", *(test for _, test in suite.wanted)]
    environment = {**os.environ, **variables}
    return subprocess.run(["cargo", *words], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


# ------------------------------------------------------------------------------------------ what is wanted


def replays():
    wanted = [
        ("a packet above the longest delay is dropped and counted", "an_excessive_delay_is_dropped_and_counted_and_the_longest_allowed_is_kept"),
        ("a recorded packet is dropped, also after kill -9 and restart", "a_relay_killed_and_started_again_refuses_what_it_has_seen"),
        ("malformed cells and bytes are counted by reason, the relay lives", "no_bytes_on_the_port_bring_the_relay_down_or_go_uncounted"),
        ("an entry bounds and refuses its clients", "an_entry_serves_its_clients_and_nobody_else"),
    ]
    return ByTest("by-test", "what tests of the relay show: replays, delays, malformed cells", [Suite("mizzle-relay", "relay", wanted)])


def isolation():
    sessions = [
        ("keys that load at once share neither sessions nor SURBs", "isolations_that_load_at_once_share_neither_sessions_nor_surbs"),
    ]
    commands = [
        ("streams: listeners, tokens and new identities isolate", "proxy::tests::listeners_tokens_and_new_identities_isolate"),
        ("datagrams and look-ups: users and passwords isolate", "proxy::tests::what_needs_no_stream_is_isolated_like_streams"),
        ("programs of `run`, `browse` and `forward` are apart", "door::tests::no_two_doors_share_an_isolation_and_none_shows_it"),
    ]
    suites = [Suite("mizzle-protocol", "conversation", sessions), Suite("mizzle-daemon", "", commands)]
    return ByTest("surbs", "what tests show of isolation: SURBs, datagrams, look-ups", suites)


def theory():
    closed = [
        ("occupancy, latency, entropies meet the closed forms", "the_closed_forms_hold"),
        ("for one, four and five layers, too", "the_forms_for_other_numbers_of_layers_hold_too"),
        ("no form is shown where it does not hold", "a_form_is_not_shown_where_it_does_not_hold"),
        ("intervals over five seeds hold the truth as often as they say", "intervals_hold_the_truth_as_often_as_they_say"),
        ("packets in the clear fare like Sphinx packets", "packets_in_the_clear_fare_like_sphinx_packets"),
        ("corrupt mixes cost what theory says", "corrupt_mixes_cost_anonymity_and_whole_paths_of_them_cost_all"),
        ("relays that can take less drop the rest", "relays_that_can_take_less_than_comes_drop_the_rest"),
    ]
    lived = [
        ("pages, talks and exchanges arrive whole", "pages_talks_and_exchanges_arrive_whole"),
        ("losses are repaired", "losses_are_repaired_for_all_clients_at_once"),
        ("a trace is lived by its senders", "a_trace_is_lived_by_its_senders"),
        ("clients rise with their load", "clients_that_may_move_rise_with_their_load"),
        ("keys and layers change, and nothing is lost", "keys_and_layers_change_and_nobody_notices"),
        ("relays are cut off, and flows go on", "relays_that_are_cut_off_cost_packets_until_the_next_document_and_flows_go_on"),
        ("who matches flows finds what can be found, and no more", "an_exit_and_an_entry_together_find_the_client_and_links_alone_do_not"),
    ]
    attacked = [
        ("who toggles a load finds the line of a `fast` client", "a_site_that_toggles_the_load_of_a_fast_client_finds_its_line"),
        ("and none at a constant rate", "at_a_constant_rate_a_toggled_load_shows_on_no_line"),
        ("favourite sites are found by rises", "sites_of_a_fast_client_are_found_by_its_rises"),
        ("and not where lines show nothing and all are there", "where_lines_show_nothing_and_all_are_there_sites_stay_unknown"),
        ("but by who comes and goes", "who_comes_and_goes_is_found_by_that_where_lines_show_nothing"),
    ]
    suites = [Suite("mizzle-sim", "theory", closed), Suite("mizzle-sim", "town", lived), Suite("mizzle-sim", "attacks", attacked)]
    return ByTest("theory", "the simulator against closed forms, and what clients have of it", suites)


def meddling():
    wanted = [
        ("n-1 follows a packet, and relays' loops tell", "a_packet_that_is_alone_is_followed_and_loops_that_die_tell"),
        ("replays find what relays that remember hide", "copies_tell_where_a_packet_went_unless_mixes_remember_what_they_have_seen"),
        ("a flood hides nothing from who sends it", "who_floods_takes_his_own_packets_from_what_hides_the_others"),
        ("tagged packets are known again at bad exits alone", "a_bad_exit_knows_tagged_packets_again_and_nobody_else_does"),
        ("who takes or holds a client's packets finds its session", "a_line_that_is_cut_in_a_rhythm_shows_at_the_exit"),
    ]
    return ByTest("meddling", "adversaries with links in their hands get as far as they must, and no further", [Suite("mizzle-sim", "meddling", wanted)])


def codec():
    packets = [
        ("random and mutated packets of 1 to 5 hops and all sizes, SURBs: bytes, verdict and tag as the crate's", "packets_random_and_mutated_fare_alike_in_both_codecs"),
        ("every truncation is refused", "every_truncation_is_refused"),
        ("stricter than the crate: an element of low order, whatever its MAC", "an_element_of_low_order_is_refused_even_if_its_sender_made_the_mac_fit"),
        ("stricter than the crate: another version, though its MAC holds", "a_packet_of_another_version_is_refused_though_its_mac_holds"),
        ("keys that no secret has are told from others", "keys_that_no_secret_has_are_told_from_others"),
    ]
    vectors = [
        ("Wycheproof's X25519 vectors on each backend", "every_implementation_gives_what_wycheproof_expects"),
        ("the portable backend is always there, each can be chosen", "the_portable_implementation_is_always_there_and_each_can_be_forced"),
    ]
    allocations = [
        ("no allocation per packet", "neither_building_nor_unwrapping_a_packet_allocates"),
        ("the counting allocator counts", "the_counter_counts"),
    ]
    suites = [
        Suite("mizzle-protocol", "sphinx_oracle", packets, {"SPHINX_ORACLE_CASES": "100000"}),
        Suite("mizzle-protocol", "x25519_vectors", vectors),
        Suite("mizzle-protocol", "sphinx_allocations", allocations),
    ]
    return ByTest("codec", "our packets against the crate's, X25519 against its vectors, allocations", suites, {"codec: packets compared by each": ">= 100000"})


def load():
    wanted = [
        ("at twice the capacity: memory flat, delays kept, every drop labelled, books exact", "at_twice_its_capacity_a_relay_drops_what_it_must_and_what_passes_is_in_time"),
        ("kill -9 under load: nothing is accepted again", "what_was_accepted_in_the_last_ten_seconds_is_refused_after_a_kill_under_load"),
        ("a full replay memory refuses packets and says so", "a_relay_whose_memory_is_full_refuses_packets_and_says_so"),
        ("a read-only replay memory starts no relay and says so", "a_relay_whose_memory_can_only_be_read_does_not_start_and_says_why"),
    ]
    floors = {"overload: seconds of load": ">= 60", "kill: packets accepted before kill -9": ">= 10000"}
    return ByTest("load", "a relay at twice its capacity, killed under load, with a full memory", [Suite("mizzle-relay", "load", wanted, LONG)], floors)


def attacks():
    wanted = [
        ("1 000 half-open handshakes", "a_thousand_half_open_handshakes_neither_slow_the_others_nor_keep_newcomers_out"),
        ("10 000 junk packets/s from a client that reads nothing", "a_client_that_floods_with_junk_and_reads_nothing_does_not_slow_the_others"),
        ("a relay that does not read", "a_reader_that_does_not_read_does_not_slow_the_others"),
        ("junk that an honest entry relays never closes its link", "junk_that_an_honest_entry_relays_never_closes_its_link"),
    ]
    floors = {"relayed junk: packets of it": ">= 20000"}
    return ByTest("attacks", "what some do to a relay, others do not feel", [Suite("mizzle-relay", "attack", wanted, LONG)], floors)


def operators():
    wanted = [
        ("10 Mbit/s holds, delays as ever", "a_rate_holds_and_delays_do_not_change"),
        ("a used quota leads to an announced rest", "a_quota_that_is_used_up_leads_to_an_announced_rest_that_outlives_the_process"),
        ("SIGTERM loses nothing", "a_relay_that_is_told_to_stop_loses_nothing"),
        ("a relay that leaves serves until nobody needs it", "a_relay_that_is_told_to_leave_serves_until_nobody_needs_it"),
        ("a relay's filler takes nothing from packets", "filler_of_a_relay_takes_nothing_from_packets_and_no_more_of_the_line_than_they_leave"),
        ("no more is announced than can be remembered", "a_relay_announces_no_more_than_it_can_remember_for_a_key_period"),
        ("a relay with the portable X25519", "a_relay_with_the_portable_x25519_takes_passes_and_remembers_packets_as_others_do"),
    ]
    between = [
        ("what goes to a relay that stops is all received", "what_is_on_its_way_to_a_relay_that_stops_is_written_to_the_end"),
        ("what a relay that stops has for another is all received", "what_a_relay_that_stops_has_on_its_way_is_written_to_the_end"),
        ("a stuffed line makes no packet late", "a_line_that_takes_nothing_for_a_while_passes_no_packet_that_is_late"),
    ]
    suites = [Suite("mizzle-relay", "operator", wanted, LONG), Suite("mizzle-relay", "pair", between)]
    return ByTest("operators", "rate, quota, ends, and two relays", suites, {"rate: seconds of load": ">= 60"})


def doctor():
    named = [
        ("port closed", "a_closed_port_is_named"),
        ("IPv6 broken", "broken_ipv6_is_named"),
        ("clock", "a_wrong_clock_is_named_in_both_directions"),
        ("file limit", "a_low_file_limit_is_named"),
        ("key permissions", "keys_that_others_can_read_are_named"),
        ("DNS", "names_that_cannot_be_looked_up_are_named"),
        ("family mismatch", "a_family_that_does_not_fit_is_named"),
        ("old version", "an_old_version_is_named"),
        ("disk full", "a_full_disk_is_named"),
        ("missing processor features", "missing_processor_features_are_named_and_keep_the_relay_from_starting"),
        ("no tmpfs", "a_folder_that_is_not_in_memory_is_named"),
        ("NAT", "a_translated_address_is_named"),
        ("no room for replay tags", "a_folder_without_room_for_the_replay_tags_is_named"),
        ("IPv6 address that is not public", "an_ipv6_address_that_is_not_public_is_named_in_a_public_network"),
        ("refused by the authorities", "a_relay_that_the_authorities_refuse_is_told_so_with_what_to_do"),
    ]
    wanted = [(f"names: {what}", test) for what, test in named]
    wanted.append(("finds nothing where all is well", "a_relay_that_is_well_passes_running_or_not"))
    return ByTest("doctor", "doctor names each of fifteen faults, put in for real", [Suite("mizzle-relay", "doctor", wanted)])


# The long form of the relay's tests.
LONG = {"MIZZLE_LONG": "1"}
