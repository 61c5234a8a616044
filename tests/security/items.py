"""The thirty attacks that must fail, in words, and the tests that try them: `path::function` from tests/."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """An attack, and what tries it."""

    attack: str
    tests: tuple[str, ...]


ROLES = "security/test_role_matrix.py"
BODIES = "integration/test_api_hostile_bodies.py"
TOKENS = "unit/test_security.py"
JWKS = "unit/test_jwks.py"
FRESHNESS = "unit/test_jwks_freshness.py"
JSON = "unit/test_api_json_body.py"
CALLERS = "integration/test_api_callers.py"
LIMITS = "integration/test_api_rate_limit.py"
LIMITS_ALONE = "integration/test_rate_limit_without_redis.py"
OUTBOUND = "unit/test_outbound.py"
CONTAINERS = "unit/test_container_files.py"
PANGO = "unit/test_developer_files.py::test_ci_skips_no_test_of_the_html_invoice_for_want_of_pango"
CLAIMED_ADDRESS = "integration/test_api_processes.py::test_a_claimed_address_is_not_used"
HOSTILE_BODIES = f"{BODIES}::test_every_hostile_body_is_refused_and_nothing_is_written"
PRODUCTION = "security/test_production.py"
SUPPLY = "security/test_supply_chain.py"

ITEMS: dict[int, Item] = {
    1: Item(
        "A role does what is not its to do, or a route is open that nobody thought of",
        (
            f"{ROLES}::test_the_matrix",
            f"{ROLES}::test_every_operation_has_a_row_and_every_row_an_operation",
            f"{ROLES}::test_every_route_beside_the_document_has_a_row_too",
        ),
    ),
    2: Item(
        "A customer asks for another customer's order, return, invoice, history or attachment",
        (f"{ROLES}::test_the_matrix", "integration/test_api_roles.py::test_customers_see_and_touch_their_own_alone"),
    ),
    3: Item(
        "Lists, filters, searches and totals show another customer's records",
        ("integration/test_api_roles.py::test_customers_see_and_touch_their_own_alone",),
    ),
    4: Item(
        "A body sets what the server decides: status, totals, ids",
        ("integration/test_api_roles.py::test_what_the_server_decides_cannot_be_sent", HOSTILE_BODIES),
    ),
    5: Item(
        "A token chooses its own algorithm or key: none, RS256 as HS256, a foreign kid, a jku",
        (
            f"{TOKENS}::test_the_algorithm_is_ours_to_choose",
            f"{TOKENS}::test_what_a_header_names_is_never_followed",
            f"{JWKS}::test_the_algorithm_is_the_keys",
            f"{JWKS}::test_a_key_that_a_token_brings_along_is_not_looked_at",
        ),
    ),
    6: Item(
        "A token is expired, not valid yet, for another audience, of another issuer, or has no end",
        (
            f"{TOKENS}::test_a_claim_that_does_not_hold_is_refused",
            f"{JWKS}::test_claims_are_held_to_what_they_must_be",
        ),
    ),
    7: Item(
        "A key is guessed, or read from the database",
        (
            f"{TOKENS}::test_a_key_is_long_random_and_kept_as_its_hash",
            f"{CALLERS}::test_a_key_is_shown_once_and_stored_nowhere",
        ),
    ),
    8: Item(
        "A key that was revoked or replaced still opens",
        (
            f"{CALLERS}::test_a_revoked_key_is_dead_within_five_seconds",
            "integration/test_api_tokens.py::test_both_keys_hold_in_the_overlap_and_the_old_one_ends_with_it",
            f"{FRESHNESS}::test_a_key_taken_out_of_the_file_is_dead_within_five_seconds",
            f"{FRESHNESS}::test_a_file_that_is_removed_lets_no_caller_in_within_five_seconds",
            f"{FRESHNESS}::test_a_key_taken_out_at_the_url_is_dead_within_the_seconds_that_are_set",
        ),
    ),
    9: Item(
        "The time that a comparison takes tells how much of a secret was right",
        (
            "security/test_comparisons.py::test_compare_digest_decides_and_nothing_else",
            "security/test_source.py::test_secrets_are_compared_by_compare_digest_alone",
        ),
    ),
    10: Item(
        "A flood of requests, under made-up addresses",
        (
            f"{LIMITS}::test_the_101st_request_of_a_minute_is_refused",
            f"{LIMITS}::test_a_claimed_address_changes_nothing",
            CLAIMED_ADDRESS,
        ),
    ),
    11: Item(
        "A flood of requests while Redis is away",
        (f"{LIMITS_ALONE}::test_without_redis_the_process_counts_alone",),
    ),
    12: Item(
        "A body of more than a megabyte, announced or in chunks",
        (
            f"{BODIES}::test_a_body_over_the_limit_is_refused_unparsed",
            f"{JSON}::test_a_body_that_says_it_is_too_long_is_not_read_at_all",
            f"{JSON}::test_a_body_that_turns_out_too_long_is_given_up",
            f"{JSON}::test_a_body_that_lies_about_its_length_is_still_counted",
        ),
    ),
    13: Item(
        "A body nested a thousand levels deep, or with ten thousand names",
        (HOSTILE_BODIES, f"{BODIES}::test_what_metadata_cannot_hold_is_refused"),
    ),
    14: Item(
        "NUL characters and lone surrogates, in text and in metadata; text that no font can show",
        (
            HOSTILE_BODIES,
            "security/test_texts.py::test_every_text_in_a_body_must_be_one_that_can_be_shown",
            f"{JSON}::test_what_could_not_be_kept_is_refused",
            "unit/test_api_errors.py::test_a_value_that_only_the_database_refused_is_still_the_callers",
        ),
    ),
    15: Item("NaN, infinities, 2^31, 10^400, more digits than a column has", (HOSTILE_BODIES,)),
    16: Item("Negative amounts, thirds of a cent, booleans and strings for numbers", (HOSTILE_BODIES,)),
    17: Item(
        "SQL in filters, searches, cursors, fields and ids",
        (
            "security/test_injection.py::test_no_query_parameter_reaches_the_sql",
            "security/test_injection.py::test_no_part_of_a_path_reaches_the_sql",
            "security/test_injection.py::test_a_search_finds_what_it_says_and_no_more",
            "security/test_source.py::test_no_sql_is_built_from_values",
        ),
    ),
    18: Item(
        "Markup in a name that runs in an invoice or a mail, or a link or a text in it that is sent to a stranger",
        (
            "integration/test_mail_abuse.py::test_cancelling_an_unpaid_order_sends_no_message",
            "integration/test_mail_abuse.py::test_what_a_customer_typed_does_not_reach_the_address_they_gave",
            "security/test_mail_relay.py::test_no_message_to_a_customer_echoes_what_they_typed",
            "security/test_mail_relay.py::test_a_message_typed_where_a_name_belongs_is_left_out",
            "security/test_mail_relay.py::test_in_production_a_customer_cannot_name_the_articles_of_an_order",
            "unit/test_unlinked.py::test_no_mail_makes_a_link_of_what_a_caller_typed",
            "unit/test_mail_templates.py::test_markup_and_template_syntax_in_data_are_inert",
            "unit/test_mail_templates.py::test_templates_never_mark_a_value_as_safe",
            "unit/test_documents_weasyprint.py::test_html_jinja_and_addresses_in_data_are_inert",
            PANGO,
        ),
    ),
    19: Item(
        "Template syntax in a name that is evaluated",
        ("unit/test_mail_templates.py::test_markup_and_template_syntax_in_data_are_inert",),
    ),
    20: Item(
        "A line break in a name, subject or address that adds a header to a mail",
        (
            "unit/test_email_compose.py::test_a_control_character_in_a_header_value_is_refused",
            "unit/test_email_smtp.py::test_a_header_injection_reaches_no_server",
        ),
    ),
    21: Item(
        "A storage key that leaves its folder",
        ("unit/test_storage.py::test_a_hostile_key_is_refused_by_every_verb_and_touches_nothing",),
    ),
    22: Item(
        "A document that fetches an address or a file",
        (
            "unit/test_documents_typst.py::test_a_template_cannot_read_outside_its_folder",
            "unit/test_documents_weasyprint.py::test_a_template_loads_nothing_but_our_fonts",
            PANGO,
        ),
    ),
    23: Item(
        "A webhook address that leads inside: private and mapped addresses, rebinding, redirects",
        (
            f"{OUTBOUND}::test_a_closed_address_is_refused_as_a_literal_and_behind_a_name",
            f"{OUTBOUND}::test_a_name_is_resolved_once_and_the_connection_goes_where_it_was_checked",
            f"{OUTBOUND}::test_a_redirect_is_a_failure_and_is_not_followed",
        ),
    ),
    24: Item(
        "Line breaks and escape sequences that make up log lines",
        (
            "unit/test_api_errors.py::test_no_input_breaks_a_log_line",
            "unit/test_api_errors.py::test_libraries_log_in_the_same_form",
        ),
    ),
    25: Item(
        "Names, addresses and secrets that turn up in logs, metrics, errors, reports, jobs and messages",
        (
            "security/test_canaries.py::test_the_needles_are_found_where_they_belong_and_nowhere_else",
            "security/test_canaries.py::test_the_text_of_the_settings_holds_no_secret",
            "e2e/test_planted_data.py::test_planted_data_stay_where_they_belong",
        ),
    ),
    26: Item(
        "An error of ours that tells of SQL, files or code",
        (
            "unit/test_api_errors.py::test_an_internal_error_discloses_only_the_request_id",
            f"{PRODUCTION}::test_a_fault_in_production_shows_no_traceback_even_in_debug_logging",
        ),
    ),
    27: Item(
        "A foreign page reads answers, frames them, or traffic goes unencrypted",
        (
            "security/test_transport.py::test_no_foreign_page_may_read_anything_by_default",
            "security/test_transport.py::test_only_the_origins_named_may_call",
            "security/test_transport.py::test_no_answer_can_be_framed_run_or_leak_its_address",
            "security/test_transport.py::test_production_refuses_plain_http",
            f"{PRODUCTION}::test_only_a_proxy_of_ours_can_say_that_a_caller_came_encrypted",
            CLAIMED_ADDRESS,
        ),
    ),
    28: Item(
        "Production shows its pages, figures, queues or servers",
        (
            f"{PRODUCTION}::test_production_shows_no_pages_and_its_figures_to_managers_alone",
            f"{PRODUCTION}::test_flower_wants_a_login_in_production",
            f"{CONTAINERS}::test_ports_are_published_on_this_machine_alone",
            f"{CONTAINERS}::test_the_servers_are_reached_by_the_system_alone",
            f"{CONTAINERS}::test_nothing_starts_without_a_password",
            "security/test_servers.py::test_redis_lets_no_client_in_without_the_password",
            "security/test_servers.py::test_postgresql_has_a_password_and_trusts_no_client",
        ),
    ),
    29: Item(
        "Production starts with a secret that everyone knows, or a short one",
        (f"{PRODUCTION}::test_production_does_not_start_with",),
    ),
    30: Item(
        "A package, an image or a commit brings in what does not belong",
        (
            f"{SUPPLY}::test_everything_is_pinned_by_hash_and_comes_from_no_named_index",
            f"{SUPPLY}::test_ci_looks_for_known_vulnerabilities_and_for_secrets",
            f"{SUPPLY}::test_what_is_found_fails_the_step",
            f"{SUPPLY}::test_nothing_keeps_the_looking_from_being_done_or_its_failure_from_counting",
            "security/test_source.py::test_no_secret_is_in_the_repository",
            f"{CONTAINERS}::test_the_image_runs_as_an_unprivileged_user",
            f"{CONTAINERS}::test_each_service_may_do_little",
        ),
    ),
}
