"""What users of the relay may rely on, and the tests that prove it; rendered into tests/README.md.

A proof is FILE.TEST without the `test_` of both; test_promises.py fails where one is not there.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent

PROMISES: Mapping[str, Mapping[str, str]] = {
    "Commands": {
        "`make run` starts on loopback and prints the page's address": (
            "readme.the_two_commands greeting.the_first_start"
        ),
        "With no upstream the built-in demo answers, over real HTTP on a loopback port": (
            "check.no_upstream demo.it_listens_on_the_loopback_only page_relay.the_demo"
        ),
        "`serve` takes `--config`, `--host`, `--port`": "check.serve check.serve_refuses",
        "`check` prints the settings, secrets hidden, and exits 0 or 2": (
            "check.good_settings check.broken_file settings.redacted_hides_secrets"
            " canary.no_command_prints_a_secret"
        ),
        "`doctor` tries each way step by step and exits 0, 1 or 2": (
            "doctor.a_way_that_works doctor.exit_codes doctor_command.json"
        ),
        "`make soak` ends with a ledger, and 1 if a rule is broken": (
            "soak.a_stream_breaks_the_rule soak.the_end_of_a_run"
        ),
    },
    "Settings": {
        "Command line, environment, `.env`, credentials, file, defaults, in this order": (
            "settings.precedence settings.key_from_credential"
            " settings.config_option_wins_over_the_usual_files"
        ),
        "A fault names the key, the value but never a secret, and what was expected; exit 2": (
            "check.broken_file check.broken_variable settings.all_faults_at_once"
            " settings.malformed_dotenv_line"
        ),
        "An unknown key is a fault": "settings.other_tables_are_unknown settings.toml_is_strict",
        "One upstream needs no file": "settings.variables settings.upstream_from_variables",
        "`config/` lists every key and variable with its default": (
            "settings.example_file_equals_defaults settings.example_environment"
            " settings.every_field_says_what_it_expects"
        ),
        "`${NAME}` comes from the environment or the credentials": (
            "settings.references settings.missing_reference"
        ),
        "Traffic goes direct only if `direct` is listed or nothing is": (
            "settings.no_pool_fails_closed settings.environment_is_obeyed_only_when_asked"
            " one_door.nothing_goes_past_the_proxy"
        ),
        "`env` goes by HTTPS_PROXY, ALL_PROXY, NO_PROXY": (
            "proxies_lists.env_goes_by_the_variables proxies_lists.no_proxy"
        ),
        "Beyond loopback without keys is refused unless `open`": (
            "settings.open_relay_is_refused settings.loopback_is_open"
        ),
        "`delay_ms` implies typewriter and contradicts smooth": (
            "settings.delay_implies_typewriter settings.delay_contradicts_another_pace"
        ),
        "systemd's socket wins over host and port": "systemd.the_first_request_starts_it",
        "SIGHUP brings new settings; bad ones leave the old in force": (
            "reload.new_keys_are_in_force_and_old_ones_are_not"
            " reload.a_bad_file_leaves_the_old_settings_and_says_why"
            " reload.sighup_under_200_streams"
        ),
    },
    "Proxies": {
        "http, https, socks4, socks4a, socks5, socks5h, with and without credentials": (
            "proxies.matrix proxies_real.a_stream"
        ),
        "Where a name is resolved follows from the scheme": (
            "proxies.the_proxy_resolves_the_name proxies.the_name_is_resolved_here"
        ),
        "A list is an order of preference; what cannot be dialled is passed by": (
            "proxies_lists.the_next_one_when_one_cannot_be_dialled"
            " proxies_lists.the_last_cause_when_none_is_left"
        ),
        "A chain of hops": "chains.two_hops chains.the_hop_that_failed_is_named",
        "`ordered`, `fastest`, `spread`": "proxy_pool.ordered proxy_pool.fastest proxy_pool.spread",
        "A proxy that comes back is used again": (
            "proxy_pool.three_strikes_a_rest_and_a_probe thousand.a_thousand_streams"
        ),
    },
    "HTTP": {
        "`GET /chat` with a question; a request line of 64 KiB": (
            "chat_stream.a_question_arrives_as_sent_by_get"
            " chat_stream.a_request_line_may_have_64_kib"
        ),
        "`POST /chat` with a question, messages, any other parameter": (
            "chat_stream.messages_arrive_as_sent"
            " chat_stream.other_parameters_of_openai_go_upstream chat.several_answers"
        ),
        "Either with `Last-Event-ID` goes on, never asks again, 204 behind the last": (
            "resume.after_any_event dropped_lines.dropped_twenty_times"
            " chat_stream.a_browser_that_comes_back_is_told_to_stop"
        ),
        "Any method, path and query of `/v1` as they came": (
            "v1.any_method_with_and_without_a_body v1.path_and_query_keep_their_encoding"
        ),
        "Every official SDK works with its base URL changed": (
            "readme.python readme.node clients_node_sdks.whole"
        ),
        "The first upstream whose prefix and models fit": (
            "regions.by_prefix regions.by_model routes.the_longest_prefix"
        ),
        "`GET /v1/models` is the union": (
            "models.the_union_of_all models.one_that_fails_is_passed_over"
        ),
        "`GET /streams/ID` replays and goes on live; the header wins; `as=`": (
            "resume.the_header_wins_over_the_query resume.several_readers"
            " resume.catching_up_is_not_paced"
        ),
        "`DELETE /streams/ID` cancels the upstream; readers hear `stopped`": (
            "resume.delete_stops_it resume.delete_stops_one_that_is_not_kept"
        ),
        "A ticket starts one stream within 60 s and serves its reconnects": (
            "tickets_http.a_ticket_starts_a_stream_as_its_caller"
            " tickets_http.a_ticket_is_good_for_a_minute"
            " tickets_http.a_reconnect_shows_the_ticket_and_the_id"
        ),
        "The typewriter page types": "page_typing.it_types page_relay.it_types",
        "The status page, its data, the same live": (
            "status_page.a_proxy_goes_down_and_comes_back_without_a_reload"
            " status.an_event_at_once_and_then_every_second"
        ),
        "`/healthz`, `/readyz` (503 while draining or with no way)": (
            "proxy_pool.ready drain.a_kept_connection_is_told_that_the_relay_drains"
        ),
        "501 for a WebSocket; 404 that says where the API is": (
            "v1.a_websocket_upgrade_is_not_implemented"
            " v1.an_api_path_without_v1_gets_told_where_it_is"
        ),
        "`Teleprinter-Pace`, `-Delay`, `-Keep`, `-Key` on `/v1`": (
            "typewriter.v1_is_paced_by_its_headers resume.v1_is_kept_on_request"
            " browsers.with_teleprinter_key_the_sdks_own_key_goes_upstream"
        ),
        "`Teleprinter-Request-Id`, `-Stream`, `-Upstream`; the upstream's `x-request-id` stays": (
            "v1.the_relays_own_headers_of_an_answer chat_stream.the_answer_s_headers"
        ),
    },
    "Bytes": {
        "Unpaced `/v1` frames are byte-identical": (
            "v1.a_stream_is_relayed_byte_for_byte v1.a_stream_may_be_cut_anywhere"
            " truth.malformed_frames_pass_and_change_nothing"
        ),
        "Bodies that are no streams, too": (
            "v1.a_binary_answer_arrives_byte_for_byte v1.json_is_not_written_anew"
        ),
        "Any split of any bytes gives the same frames": (
            "sse.a_split_changes_nothing sse.joined_they_are_the_stream"
        ),
        "A kept `/v1` stream has an `id:` before each frame": "view.ids resume.events_compare",
        "`/chat` passes over a malformed frame and counts it": (
            "chat_stream.a_malformed_frame_is_passed_over_and_counted"
        ),
        "No pace loses, doubles or disorders text, or cuts a grapheme": (
            "pacing.order_is_kept_and_nothing_lost smooth.no_cut_inside_a_grapheme"
            " smooth.whatever_arrives"
        ),
    },
    "Privacy": {
        "Nothing upstream that tells who asks, or is the relay's own": (
            "v1.nothing_goes_upstream_that_tells_who_asks"
            " v1.the_relay_adds_nothing_of_its_own_to_a_request"
            " v1.nothing_of_the_clients_goes_upstream_from_chat"
        ),
        "No cookie, HSTS, Alt-Svc, CORS of the upstream's downstream": (
            "v1.nothing_reaches_the_client_that_is_the_upstreams_own"
            " v1.a_cookie_of_the_upstream_is_never_sent_back"
        ),
        "Hop-by-hop headers go neither way": "routes.what_connection_names routes.stays_here",
        "No secret and no word of anybody's in log, metrics, errors, reprs": (
            "canary.no_secret_and_no_word_in_any_output"
            " canary.no_secret_in_files_and_no_ticket_in_any_output"
            " canary.what_a_relay_sends_is_looked_at failures.no_secret_is_told"
        ),
    },
    "Browsers and keys": {
        "421 for a foreign `Host`": (
            "browsers.a_foreign_name_is_refused_everywhere browsers.server_hosts_are_its_names_too"
        ),
        "403 for another site's page": (
            "browsers.another_sites_page_is_refused"
            " browsers.a_request_that_another_site_caused_is_refused"
            " cors.pages_of_other_origins_are_403"
        ),
        "An allowed origin may ask and read": (
            "cors.a_stream_may_be_read browsers.a_page_of_server_origins_may_ask_and_read"
        ),
        "Without a key only the pages and the health are open": (
            "browsers.without_a_key_nothing_else_opens browsers.what_is_open_without_a_key"
            " metrics_http.metrics_need_a_key_unless_they_are_open"
        ),
        "The header with the relay's key never goes upstream": (
            "browsers.the_relays_key_is_not_the_upstreams"
            " browsers.a_key_shown_twice_goes_upstream_in_neither_header"
        ),
        "With no key of its own the client's goes through": (
            "v1.the_clients_own_key_goes_on_where_the_upstream_has_none"
            " v1.the_upstreams_key_takes_the_place_of_the_clients"
        ),
        "Bounds of a key: models, requests, tokens, streams": (
            "keys.a_key_may_use_its_models_only keys.requests_a_minute_are_bounded"
            " keys.tokens_a_day_are_bounded_by_the_upstreams_usage"
        ),
    },
    "Events of /chat": {
        "`start` at once, with id STREAM.0": (
            "chat_stream.start_comes_before_the_upstream_said_a_word"
        ),
        "`answer`, `reasoning`, `tool_calls`": (
            "chat_stream.an_answer_arrives_as_sent chat_stream.reasoning_has_its_own_event"
            " chat_stream.tool_calls_arrive_as_sent"
        ),
        "`done` and `error` with their fields": (
            "chat_stream.every_event_has_its_fields_and_its_id"
            " chat_stream.usage_is_null_if_none_was_sent"
            " chat_stream.a_cut_is_an_error_event_behind_the_text"
        ),
        "Ids are unique and unguessable, the parts numbered": (
            "chat_stream.streams_have_ids_that_nobody_guesses view.several_events_of_one_frame"
            " smooth.ids_are_the_same_at_every_pace"
        ),
        "400 malformed, 410 gone, 404 another's; never a silent gap": (
            "ids.malformed resume.what_is_not_there resume.a_replay_belongs_to_its_key"
            " replay_redis.a_gap_is_never_silent"
        ),
        "The relay's own refusals are statuses": (
            "failures.what_the_relay_refuses chat_stream.a_bad_post_is_refused_by_name"
        ),
        "Leaving cancels the upstream at once, on `/chat` after `keep`": (
            "leaving.between_tokens resume.an_upstream_is_read_on_for_a_while"
            " resume.keep_0_cancels_at_once"
        ),
        "A replay is held for `retain`": "resume.it_is_gone_after_retain replay.retention_is_exact",
        "A heartbeat after 15 s of silence, between whole frames": (
            "heartbeat.silence_gets_a_heartbeat"
            " heartbeat.a_heartbeat_stands_between_whole_frames"
            " resume.a_heartbeat_between_ids_has_one_newline"
        ),
        "The status line waits up to `open_after`": (
            "heartbeat.a_silent_upstream_is_waited_for_in_an_open_stream"
            " heartbeat.a_request_for_no_stream_is_never_opened_early"
        ),
    },
    "Truth": {
        "Success only if the upstream said so, in each dialect": (
            "truth.a_stream_that_said_its_end_is_complete"
            " truth.every_finish_reason_is_an_ending"
            " truth.a_finish_reason_of_one_choice_does_not_end_the_others"
        ),
        "An unknown dialect ends as its transport ends": (
            "truth.an_unknown_dialect_ends_as_its_transport_ends"
        ),
        "The upstream's own error passes unchanged": (
            "truth.an_error_of_the_upstreams_own_passes_unchanged"
        ),
        "A cut ends with an error in the client's dialect, no last chunk, never `[DONE]`": (
            "truth.a_stream_that_was_cut_says_so matrix.a_fault_at_a_stage"
            " truth.a_body_that_was_cut_is_not_whole"
        ),
        "No token, usage or ending is invented": (
            "truth.chat_invents_no_usage_and_no_reason thousand.a_thousand_streams"
        ),
        "A client that left is nobody's failure": (
            "status_history.who_left_tells_nothing_of_the_upstream"
            " circuit.a_trial_that_tells_nothing_is_replaced"
        ),
        "Until content went out a failed attempt may be made again, after it never": (
            "failover.with_a_fallback_the_client_gets_an_answer"
            " failover.a_cut_in_the_middle_is_never_repeated"
            " heartbeat.what_is_no_content_is_held_back_until_there_is_some"
        ),
        "`continue_on_cut` is the one exception, and off": (
            "rejoin.off_by_default rejoin.v1_goes_on rejoin.another_answer_ends_as_cut"
        ),
    },
    "Clocks": {
        "`connect` covers one dial, handshakes and TLS included": (
            "clocks.connect_on_real_sockets chains.a_silent_last_hop_is_left_after_connect"
        ),
        "`headers`, `first_token`, `idle` and their codes": (
            "failures.the_headers_clock failures.the_first_token_clock failures.the_idle_clock"
            " clocks.each_upstream_has_its_own"
        ),
        "Pings re-arm nothing": "clocks.pings_re_arm_nothing",
        "`total` covers the whole stream": "clocks.total_ends_whatever_is_going_on",
        "0 is off": "clocks.off failures.a_clock_may_be_off",
        "A pause of the relay's does not count": (
            "typewriter.a_pause_of_the_relay_s_is_not_the_upstream_s_silence"
            " clocks.total_does_not_count_what_the_client_delays"
        ),
    },
    "Errors": {
        "Each code has its status and its blame": (
            "errors.status_and_blame errors.every_code_in_the_sources_is_known"
            " errors.no_code_is_without_a_promise"
        ),
        "Anthropic's clients get Anthropic's form": (
            "failures.anthropics_clients_get_anthropics_form dialect.refusals"
        ),
        "Messages name the cause as a user would": (
            "failures.a_proxy_that_refuses_tcp failures.http_spoken_to_a_socks_port"
            " failures.a_certificate_that_nobody_trusts"
        ),
        "`proxy_unreachable`, `_timeout`, `_refused`, `_protocol`": (
            "failures.a_silent_proxy failures.a_proxy_that_wants_a_password"
            " failures.what_is_no_proxy_at_all"
        ),
        "`no_proxy` with Retry-After": "proxy_pool.no_proxy",
        "`draining`: what is open goes on, then is told": (
            "drain.an_open_stream_goes_on_to_its_end drain.what_is_cut_is_told_so"
        ),
        "`too_large`, `rate_limited`, `too_many_streams`": (
            "bounds.a_body_over_the_limit_is_413 failures.as_many_requests_as_the_key_may_send"
            " failures.as_many_streams_as_the_settings_allow"
        ),
        "`client_too_slow` is cut off": "bounds.a_reader_that_takes_nothing_is_cut",
        "`resume_lost`: a store that went is told": (
            "replay_redis.a_stream_that_redis_forgot_is_lost"
        ),
        "The upstream's own 4xx and 5xx come as they are": (
            "v1.an_error_of_the_upstream_comes_as_it_is"
            " truth.chat_tells_the_upstreams_status_and_message"
        ),
    },
    "Metrics": {
        "The names, types and labels that are promised": (
            "metrics.names_types_and_labels_are_those_of_the_contract"
        ),
        "One outcome each": (
            "metrics.a_stream_has_one_outcome metrics_http.one_stream_of_each_outcome"
        ),
        "Tokens from the upstream's usage only": (
            "metrics.tokens_of_every_api metrics.no_usage_breaks_a_scrape"
        ),
        "The loop's lag": "metrics_http.the_loops_lag_is_measured",
        "One line a request in the log": (
            "logs.a_stream_has_all_fields logs.a_client_that_left_has_its_line"
        ),
    },
}


def proofs(named: str) -> list[tuple[str, str]]:
    """Return file and function of each proof."""
    split = (name.partition(".") for name in named.split())
    return [(f"test_{file}.py", f"test_{test}") for file, _, test in split]


@cache
def functions(file: str) -> frozenset[str]:
    """Return the names of the test functions of a file; none if there is no such file."""
    path = HERE / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.exists() else "")
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def section(title: str) -> Iterator[str]:
    """Yield the lines of a section's table."""
    yield from ("", f"### {title}", "", "| promise | proven by |", "| --- | --- |")
    for promise, named in PROMISES[title].items():
        tests = ", ".join(f"`{file}::{test}`" for file, test in proofs(named))
        yield f"| {promise} | {tests} |"
