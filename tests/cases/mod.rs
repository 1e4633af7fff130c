//! The cases. What the pair promises, and the test that shows it:
//!
//! | promise | test |
//! |---|---|
//! | the story of the demo | `story::the_story_of_the_demo` |
//! | takeover after power cut | `takeover::after_a_power_cut` |
//! | takeover after `kill -9` of agent and service together | `takeover::after_kill_9_of_agent_and_service` |
//! | hand-over after the service alone dies | `takeover::after_the_service_alone_dies` |
//! | hand-over after only the master's public cable is lost | `takeover::after_the_masters_public_cable_is_lost` |
//! | no takeover when only the private cable is lost, and no promotion of the stale standby later | `no_takeover::when_only_the_private_cable_is_lost` |
//! | no takeover when only the standby's public cable is lost | `no_takeover::when_only_the_standbys_public_cable_is_lost` |
//! | no takeover when only the agent process is lost | `no_takeover::when_only_the_agent_is_lost` |
//! | and no promotion of the standby that is stale by that later | `no_takeover::a_standby_left_stale_is_not_promoted_later` |
//! | double failure, three lonely reboots, heard the new term and then stood alone | `boot::double_failure`, `boot::three_lonely_reboots`, `boot::heard_the_new_term_and_then_stood_alone` |
//! | both links cut with both alive; a hung or paused node goes on | `splits` |
//! | state lost, trees or machine put back from a backup or snapshot, data that never met or diverged | `histories` |
//! | failover during first copy, reversal, rescue | `boot::a_half_copied_standby_is_not_promoted`, `returning::the_new_master_dies_during_the_reversal`, `returning::the_old_master_dies_during_the_rescue` |
//! | a planned move broken by `kill -9` at any moment | `moves::kill_9_of_either_agent_during_planned_moves` |
//! | several floating addresses, one of which cannot be had | `addresses` |
//! | both return at once | `boot::both_return_at_once`, `boot::both_return_and_the_newer_data_win` |
//! | one boots alone | `boot::one_boots_alone`, `boot::a_master_that_was_alone_may_boot_alone` |
//! | the returning old master never overwrites newer data | `returning::never_overwrites_newer_data` |
//! | a half-copied standby is not promoted | `boot::a_half_copied_standby_is_not_promoted` |
//! | an empty replaced disk on the preferred node receives and never sends | `boot::an_empty_replaced_disk_receives` |
//! | a cloned key is refused | `identity::a_cloned_node_is_refused`, `identity::a_copy_beside_the_living_master`, `identity::a_copy_beside_the_living_standby` |
//! | `kill -9` of either agent at random points, fifty times | `crashes::kill_9_fifty_times` |
//! | protected and immutable files untouched | `guards::protected_files_are_untouched`, `guards::immutable_and_append_only_files_are_untouched` |
//! | a full disk on the standby | `guards::a_full_standby_follows_when_there_is_room` |
//! | a file that is changed in place is never left a mixture; no room for its journal | `in_place` |
//! | a freeze that hangs is ended, said, and the next one brings a set | `sets::a_freeze_that_hangs_is_ended_and_the_next_one_brings_a_set` |
//! | a database under load is carried in sets, and starts on the standby with what was committed before the last one | `sets` |
//! | a set is read from a snapshot while the tree goes on | `snapshots` |
//! | flags of chattr follow the master, and its files change in spite of them | `chattr` |
//! | an emptied or unmounted source stops replication | `guards::an_emptied_source_stops`, `guards::an_unmounted_source_stops` |
//! | a source that is mounted over, or unmounted and mounted again, goes on with a scan | `remount::what_is_mounted_over_or_away_and_back_is_scanned` |
//! | a stranger's key gets nowhere | `identity::a_strangers_key_gets_nowhere` |
//! | a garbage peer and a half-open connection get nowhere | `identity::garbage_and_half_open_connections_get_nowhere` |
//! | status under 100 ms and heartbeats on time during a full first copy | `load::status_and_heartbeats_during_a_first_copy` |
//! | a link that is slower than the core gets compressed data | `slow_link` |
//! | a cut transfer of a large file goes on where it was | `resume::a_large_file_goes_on_where_it_was_cut_by_kill_9_of_either_agent` |
//! | the commands | `commands`, `hold`, `rescue`, `trash`, `configuration` |
//! | the watchdog of systemd starves when the failover loop hangs | `systemd::the_watchdog_starves_when_the_failover_loop_hangs` |
//! | replicas follow the master without a resend, keep what is past the branch, slow nothing; `verify` of one | `replicas` |
//! | a reload applies by difference, whole or not at all, with the role kept | `reload` |

mod addresses;
mod boot;
mod chattr;
mod commands;
mod configuration;
mod crashes;
mod guards;
mod histories;
mod hold;
mod hooks;
mod identity;
mod in_place;
mod load;
mod moves;
mod no_takeover;
mod reload;
mod remount;
mod replicas;
mod rescue;
mod resume;
mod returning;
mod sets;
mod slow_link;
mod snapshots;
mod splits;
mod story;
mod systemd;
mod takeover;
mod trash;
