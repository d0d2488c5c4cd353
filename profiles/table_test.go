package profiles_test

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// document is a profiles.yaml and its mistakes as Parse reports them, in the order of the file. A valid file has
// none.
type document struct {
	name, src string
	mistakes  []string
	// loaderOnly says why the schema cannot find the mistake; noYAML says why the schema is not asked at all.
	loaderOnly string
	noYAML     bool
}

// one returns a file with only one profile, which has this text from column 5 of line 4.
func one(text string) string { return "default: a\nprofiles:\n  a:\n    " + text + "\n" }

const wantMount = "(available: discard, lazytime, noatime, nodev, nodiratime, nodiscard, noexec, nosuid, relatime"

func documents() []document {
	const (
		haveKeys  = "(available: access, backend, backup, description, encryption, failover, fence, filesystem, follow, max_loss, on_delete, owner, placement, pool, qos, quiesce, replicas, size, snapshots, warn_at)"
		notBuilt  = "is not supported in this version: omit it"
		noValue   = "it has no value: add one, or omit the key"
		wantCron  = `expected a cron expression of minute, hour, day, month and weekday, such as "*/15 * * * *", or @hourly, @daily, @weekly, @monthly, @yearly`
		likeCron  = ", a list such as 1,3, a range such as 1-5, or a step such as */2"
		wantName  = "expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first"
		wantTrash = "expected a number and a unit, such as 3d, 72h or 30m (units: s, m, h, d, w)"
	)
	const knowsNoFacts = "it does not know the facts"
	haveFacts := "(available: " + dataset.FormatChoices(selector.Names()) + ")"
	return []document{
		// Valid files.
		{name: "nothing said", src: "default: a\nprofiles:\n  a:\n"},
		{name: "empty profile", src: "default: a\nprofiles: {a: {}}\n"},
		{name: "all keys", src: one(`{description: "d", backend: loop, pool: fast, size: 20GiB, filesystem: {type: xfs, mount: [noatime, logbsize=256k]}, snapshots: {required: true, schedule: "*/15 * * * *", keep: {last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5}}, quiesce: freeze, on_delete: {trash: 72h}, owner: {uid: 999, gid: 998, mode: "0750"}}`)},
		{name: "placement", src: one(`placement: 'architecture == "x86_64" and load_10 < 20'`)},
		{name: "ext4", src: one("filesystem: {type: ext4, mount: [commit=30, nodelalloc, noatime, discard]}")},
		{name: "any filesystem", src: one("filesystem: {mount: [relatime, nodev]}")},
		{name: "purge", src: one("on_delete: purge")},
		{name: "keep", src: one("on_delete: keep")},
		{name: "follow", src: one("follow: always")},
		{name: "follow never", src: one("follow: never")},
		{name: "follow within", src: one("follow: {within: 1m30s}")},
		{name: "replicas", src: one("replicas: {count: 2, every: 30s}")},
		{name: "failover", src: one("failover: manual")},
		{name: "failover by itself", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: guard}")},
		{name: "failover with all that it has", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: watchdog, max_loss: 45s}")},
		{name: "failover on a share", src: one("{backend: nfs, failover: auto, fence: {exec: [/sbin/shut-out]}}")},
		{name: "failover by a command", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: {exec: [/sbin/off, -f], timeout: 30s}}")},
		{name: "access", src: one("access: many")},
		{name: "access on a share", src: one("{backend: nfs, access: many}")},
		{name: "access of one host", src: one("{access: one, size: 7GiB}")},
		{name: "flush without a freeze", src: one("quiesce: flush")},
		{name: "warning early", src: one("warn_at: 70%")},
		{name: "warning only when full", src: one("warn_at: 100%")},
		{name: "backup", src: one(`backup: {to: offsite, schedule: "15 2 * * *", keep: {daily: 7, weekly: 4, monthly: 12}}`)},
		{name: "backup that keeps all", src: one(`backup: {to: offsite, schedule: "@daily"}`)},
		{name: "tag of cron", src: one(`snapshots: {schedule: "@daily"}`)},
		{name: "days by name", src: one(`snapshots: {schedule: "0 3 * JAN-JUN MON,FRI"}`)},
		{name: "the 29th", src: one(`snapshots: {schedule: "0 0 29 2 *"}`)},
		{name: "pool called snapshot", src: one("pool: snapshot")},
		{name: "largest IDs", src: one("owner: {uid: 4294967294, gid: 0}")},
		{name: "profile 5", src: "default: \"5\"\nprofiles: {5: {size: 1.5TB}}\n"},
		{name: "anchors", src: "default: b\nprofiles:\n  a:\n    snapshots: &s {schedule: \"@daily\", keep: &k {last: 3}}\n    size: &z 5GiB\n  b:\n    snapshots: *s\n    size: *z\n"},
		{name: "comments", src: "# first\ndefault: a # here\nprofiles:\n  # and here\n  a:\n    size: 5GiB # 5\n"},
		{name: "text over lines", src: one("description: |\n      two\n      lines")},

		// The file as a whole.
		{name: "empty", src: "", mistakes: []string{"p.yaml: expected 1 to 256 profiles under the key profiles, " +
			"not 0"}},
		{name: "list", src: "- a\n", mistakes: []string{`p.yaml:1:1: expected a mapping, not a list (keys: default, profiles) in "- a"`}},
		{name: "no default", src: "profiles: {a: {}, b: {}}\n", mistakes: []string{`p.yaml:1:1: missing key default: the profile of volumes that name none, such as default: a (available: a, b) in "profiles: {a: {}, b: {}}"`}},
		{name: "no profiles", src: "default: a\n", mistakes: []string{`p.yaml:1:1: expected 1 to 256 profiles under the key profiles, not 0 in "default: a"`}},
		{name: "profiles of nothing", src: "default: a\nprofiles:\n", mistakes: []string{`p.yaml:1:1: expected 1 to 256 profiles under the key profiles, not 0 in "default: a"`, `p.yaml:2:1: profiles: ` + noValue + ` in "profiles:"`}},
		{name: "unknown default", src: "default: glod\nprofiles: {gold: {}}\n", mistakes: []string{`p.yaml:1:10: default: unknown profile "glod" (available: gold); did you mean gold? in "default: glod"`}, loaderOnly: "it does not compare values"},
		{name: "unknown key at the top", src: "dfault: a\ndefault: a\nprofiles: {a: {}}\n", mistakes: []string{`p.yaml:1:1: dfault: unknown key "dfault", did you mean default? (available: default, profiles) in "dfault: a"`}},
		{name: "bad name", src: "default: Gold\nprofiles: {Gold: {}}\n", mistakes: []string{`p.yaml:2:12: profiles.Gold: bad profile name "Gold": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first, and not snapshot in "profiles: {Gold: {}}"`}},
		{name: "kept name", src: "default: snapshot-x\nprofiles: {snapshot-x: {}}\n", mistakes: []string{`p.yaml:2:12: profiles.snapshot-x: bad profile name "snapshot-x": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first, and not snapshot in "profiles: {snapshot-x: {}}"`}},
		{name: "profile is a text", src: "default: a\nprofiles: {a: gold}\n", mistakes: []string{`p.yaml:2:15: profiles.a: expected a mapping, not a text (keys: access, backend, backup, description, encryption, failover, fence, filesystem, follow, max_loss, on_delete, owner, placement, pool, qos, quiesce, replicas, size, snapshots, warn_at) in "profiles: {a: gold}"`}},

		{name: "two documents", src: "default: a\nprofiles: {a: {}}\n---\ndefault: b\n", mistakes: []string{`p.yaml:4:1: a second document: expected one in "default: b"`}, noYAML: true},
		{name: "twice", src: "default: a\nprofiles: {a: {}, a: {}}\n", mistakes: []string{`p.yaml:2:19: mapping key "a" already defined at [2:12] in "profiles: {a: {}, a: {}}"`}, noYAML: true},
		{name: "cut off", src: "default: [\n", mistakes: []string{`p.yaml:1:10: sequence end token ']' not found in "default: ["`}, noYAML: true},

		// Keys.
		{name: "unknown key", src: one("szie: 5GiB"), mistakes: []string{`p.yaml:4:5: profiles.a.szie: unknown key "szie", did you mean size? ` + haveKeys + ` in "szie: 5GiB"`}},
		{name: "key of on_delete", src: one("trash: 3d"), mistakes: []string{`p.yaml:4:5: profiles.a.trash: it belongs to on_delete (on_delete: {trash: 3d}) in "trash: 3d"`}},
		{name: "unlike any key", src: one("compression: on"), mistakes: []string{`p.yaml:4:5: profiles.a.compression: unknown key "compression" ` + haveKeys + ` in "compression: on"`}},
		{name: "key without a value", src: one("size:"), mistakes: []string{`p.yaml:4:5: profiles.a.size: ` + noValue + ` in "size:"`}},
		{name: "null", src: one("snapshots: ~"), mistakes: []string{`p.yaml:4:5: profiles.a.snapshots: ` + noValue + ` in "snapshots: ~"`}},
		{name: "encryption", src: one("encryption: {key_file: /etc/drover/keys/gold}")},
		{name: "encryption by a program", src: one("encryption: {exec: [/usr/local/sbin/drover-key, gold], timeout: 5s}")},
		{name: "encryption without a key", src: one("encryption: {}"), mistakes: []string{`p.yaml:4:17: profiles.a.encryption: expected the source of the key: {key_file: /etc/drover/keys/gold}, or a program that prints it: {exec: [/usr/local/sbin/drover-key], timeout: 10s} in "encryption: {}"`}},
		{name: "encryption with two keys", src: one("encryption: {key_file: /a, exec: [/b]}"), mistakes: []string{`p.yaml:4:17: profiles.a.encryption: expected the source of the key: {key_file: /etc/drover/keys/gold}, or a program that prints it: {exec: [/usr/local/sbin/drover-key], timeout: 10s} in "encryption: {key_file: /a, exec: [/b]}"`}},
		{name: "encryption with a key somewhere", src: one("encryption: {key_file: keys/gold}"), mistakes: []string{`p.yaml:4:28: profiles.a.encryption.key_file: bad path "keys/gold": expected an absolute one without . and .., such as /etc/drover/keys/gold in "encryption: {key_file: keys/gold}"`}},
		{name: "encryption by a program somewhere", src: one("encryption: {exec: [drover-key]}"), mistakes: []string{`p.yaml:4:24: profiles.a.encryption.exec: expected a program by its absolute path, such as [/usr/local/sbin/drover-key] in "encryption: {exec: [drover-key]}"`}},
		{name: "encryption by nothing", src: one("encryption: {exec: []}"), mistakes: []string{`p.yaml:4:24: profiles.a.encryption.exec: expected a program by its absolute path, such as [/usr/local/sbin/drover-key] in "encryption: {exec: []}"`}},
		{name: "encryption by a program that takes its time", src: one("encryption: {exec: [/b], timeout: 5m}"), mistakes: []string{`p.yaml:4:39: profiles.a.encryption.timeout: expected more than 0, and 1m at most in "encryption: {exec: [/b], timeout: 5m}"`}, loaderOnly: "it does not compare values"},
		{name: "encryption with a timeout of nothing", src: one("encryption: {key_file: /a, timeout: 5s}"), mistakes: []string{`p.yaml:4:32: profiles.a.encryption.timeout: it applies only to exec in "encryption: {key_file: /a, timeout: 5s}"`}},
		{name: "encryption is a text", src: one("encryption: yes"), mistakes: []string{`p.yaml:4:17: profiles.a.encryption: expected a mapping, not a text (keys: exec, key_file, timeout) in "encryption: yes"`}},
		{name: "qos", src: one("qos: {read_iops: 5000, write_iops: 2000, read_bps: 200MiB, write_bps: 100MB, strict: true}")},
		{name: "qos that limits nothing", src: one("qos: {}"), mistakes: []string{`p.yaml:4:10: profiles.a.qos: expected a limit, such as {write_iops: 2000, write_bps: 100MiB} in "qos: {}"`}},
		{name: "qos that is strict about nothing", src: one("qos: {strict: true}"), mistakes: []string{`p.yaml:4:10: profiles.a.qos: expected a limit, such as {write_iops: 2000, write_bps: 100MiB} in "qos: {strict: true}"`}},
		{name: "qos of few operations", src: one("qos: {read_iops: 5}"), mistakes: []string{`p.yaml:4:22: profiles.a.qos.read_iops: 5 operations per second are too few: expected 10 or more (omit it for no limit) in "qos: {read_iops: 5}"`}},
		{name: "qos of no operations", src: one("qos: {write_iops: 0}"), mistakes: []string{`p.yaml:4:23: profiles.a.qos.write_iops: 0 operations per second are too few: expected 10 or more (omit it for no limit) in "qos: {write_iops: 0}"`}},
		{name: "qos of few bytes", src: one("qos: {write_bps: 4KiB}"), mistakes: []string{`p.yaml:4:22: profiles.a.qos.write_bps: 4KiB per second is too low: expected 128KiB or more (omit it for no limit) in "qos: {write_bps: 4KiB}"`}, loaderOnly: "it does not compare values"},
		{name: "qos of bare bytes", src: one("qos: {write_bps: 5000000}"), mistakes: []string{`p.yaml:4:22: profiles.a.qos.write_bps: bad size "5000000": a bare number is ambiguous (use 5000000GiB for gibibytes or 5000000B for bytes) in "qos: {write_bps: 5000000}"`}},
		{name: "qos of another kind", src: one("qos: {iops: 500, strict: 1}"), mistakes: []string{`p.yaml:4:11: profiles.a.qos.iops: unknown key "iops" (available: read_bps, read_iops, strict, write_bps, write_iops) in "qos: {iops: 500, strict: 1}"`}},
		{name: "qos is a size", src: one("qos: 5MiB"), mistakes: []string{`p.yaml:4:10: profiles.a.qos: expected a mapping, not a text (keys: read_bps, read_iops, strict, write_bps, write_iops) in "qos: 5MiB"`}},
		{name: "qos that is hardly strict", src: one("qos: {read_iops: 50, strict: maybe}"), mistakes: []string{`p.yaml:4:34: profiles.a.qos.strict: expected true or false, not a text in "qos: {read_iops: 50, strict: maybe}"`}},
		{name: "replicas without a time", src: one("replicas: {count: 1}"), mistakes: []string{`p.yaml:4:15: profiles.a.replicas: expected the number and the interval, such as {count: 1, every: 30s} in "replicas: {count: 1}"`}},
		{name: "no replicas", src: one("replicas: {count: 0, every: 30s}"), mistakes: []string{`p.yaml:4:23: profiles.a.replicas.count: no replicas: omit replicas in "replicas: {count: 0, every: 30s}"`}},
		{name: "replicas all the time", src: one("replicas: {count: 1, every: 1ms}"), mistakes: []string{`p.yaml:4:33: profiles.a.replicas.every: too often: expected 1s or more in "replicas: {count: 1, every: 1ms}"`}, loaderOnly: "it does not compare times"},
		{name: "replicas that are many", src: one("replicas: {count: 9, every: 30s}"), mistakes: []string{`p.yaml:4:23: profiles.a.replicas.count: expected a number from 0 to 8, not 9 in "replicas: {count: 9, every: 30s}"`}},
		{name: "failover alone", src: one("failover: auto"), mistakes: []string{
			`p.yaml:4:15: profiles.a.failover: auto opens a copy on another node once the lost home certainly writes no more: expected replicas, such as {count: 1, every: 30s}, and a fence (guard, watchdog, or a command) in "failover: auto"`,
		}},
		{name: "failover on a share by a guard", src: one("{backend: nfs, replicas: {count: 1, every: 30s}, failover: auto, fence: guard}"), mistakes: []string{
			`p.yaml:4:64: profiles.a.failover: auto on a share needs a fence that blocks the lost home's access to the share, which a guard or watchdog there does not do: expected fence: {exec: [/usr/local/sbin/shut-out], timeout: 20s} in "{backend: nfs, replicas: {count: 1, every: 30s}, failover: auto, fence: guard}"`,
		}},
		{name: "loss on a share", src: one("{backend: nfs, failover: auto, fence: {exec: [/sbin/shut-out]}, max_loss: 1m}"), mistakes: []string{
			`p.yaml:4:69: profiles.a.max_loss: nothing is lost on a share: omit it in "{backend: nfs, failover: auto, fence: {exec: [/sbin/shut-out]}, max_loss: 1m}"`,
		}},
		{name: "fence for nothing", src: one("fence: guard"), mistakes: []string{`p.yaml:4:5: profiles.a.fence: it applies only to failover: auto in "fence: guard"`}},
		{name: "loss by hand", src: one("{failover: manual, max_loss: 1m}"), mistakes: []string{`p.yaml:4:24: profiles.a.max_loss: it applies only to failover: auto in "{failover: manual, max_loss: 1m}"`}},
		{name: "loss of nothing", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: guard, max_loss: 0s}"), mistakes: []string{`p.yaml:4:80: profiles.a.max_loss: a copy always has some age: expected at least the time between two refreshes in "{replicas: {count: 1, every: 30s}, failover: auto, fence: guard, max_loss: 0s}"`}},
		{name: "loss of less than there is", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: guard, max_loss: 20s}"), mistakes: []string{`p.yaml:4:80: profiles.a.max_loss: too low: copies are refreshed only every 30s in "{replicas: {count: 1, every: 30s}, failover: auto, fence: guard, max_loss: 20s}"`}, loaderOnly: "it does not compare times"},
		{name: "fence of another kind", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: wall}"), mistakes: []string{`p.yaml:4:63: profiles.a.fence: unknown choice "wall" (available: {exec: [/usr/local/sbin/power-off], timeout: 20s}, guard, watchdog) in "{replicas: {count: 1, every: 30s}, failover: auto, fence: wall}"`}},
		{name: "fence by a name", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: {exec: [off]}}"), mistakes: []string{`p.yaml:4:63: profiles.a.fence: expected a program by its absolute path, such as {exec: [/usr/local/sbin/power-off]} in "{replicas: {count: 1, every: 30s}, failover: auto, fence: {exec: [off]}}"`}},
		{name: "fence that takes long", src: one("{replicas: {count: 1, every: 30s}, failover: auto, fence: {exec: [/off], timeout: 2m}}"), mistakes: []string{`p.yaml:4:87: profiles.a.fence.timeout: expected more than 0, and 1m at most in "{replicas: {count: 1, every: 30s}, failover: auto, fence: {exec: [/off], timeout: 2m}}"`}, loaderOnly: "it does not compare times"},
		{name: "failover of another kind", src: one("failover: never"), mistakes: []string{`p.yaml:4:15: profiles.a.failover: unknown choice "never" (available: auto, manual) in "failover: never"`}},
		{name: "access of another kind", src: one("access: all"), mistakes: []string{`p.yaml:4:13: profiles.a.access: unknown choice "all" (available: many, one) in "access: all"`}},
		{name: "access many on a pool of one host", src: one("{backend: loop, access: many}"), mistakes: []string{`p.yaml:4:29: profiles.a.access: a pool of backend loop belongs to one host: expected backend: nfs, whose pools are on a share in "{backend: loop, access: many}"`}, loaderOnly: "it does not compare keys"},
		{name: "access many that follows", src: one("{access: many, follow: always}"), mistakes: []string{`p.yaml:4:20: profiles.a.follow: with access: many it can be mounted on every host, and its home stays: omit it in "{access: many, follow: always}"`}, loaderOnly: "it does not compare keys"},
		{name: "access many with replicas", src: one("{access: many, replicas: {count: 1, every: 30s}}"), mistakes: []string{`p.yaml:4:20: profiles.a.replicas: a volume on a share for many hosts has no copies elsewhere: omit it in "{access: many, replicas: {count: 1, every: 30s}}"`}, loaderOnly: "it does not compare keys"},
		{name: "access many with a limit", src: one("{access: many, qos: {write_bps: 5MiB}}"), mistakes: []string{`p.yaml:4:20: profiles.a.qos: a limit on one host does not apply to the others: omit it in "{access: many, qos: {write_bps: 5MiB}}"`}, loaderOnly: "it does not compare keys"},
		{name: "access many that fails over alone", src: one("{access: many, failover: auto}"), mistakes: []string{`p.yaml:4:20: profiles.a.failover: with access: many every host of the share can mount it, even if its home is lost: omit it, because auto would fence hosts that use it in "{access: many, failover: auto}"`}},
		{name: "access many that fails over", src: one("{backend: nfs, access: many, failover: auto, fence: {exec: [/off]}}"), mistakes: []string{`p.yaml:4:34: profiles.a.failover: with access: many every host of the share can mount it, even if its home is lost: omit it, because auto would fence hosts that use it in "{backend: nfs, access: many, failover: auto, fence: {exec: [/off]}}"`}, loaderOnly: "it does not compare keys"},

		// Values.
		{name: "description is a number", src: one("description: 5"), mistakes: []string{`p.yaml:4:18: profiles.a.description: expected a text, not a number (put it in quotes) in "description: 5"`}},
		{name: "backend in capitals", src: one("backend: Loop"), mistakes: []string{`p.yaml:4:14: profiles.a.backend: bad name "Loop": ` + wantName + ` in "backend: Loop"`}},
		{name: "pool is a path", src: one("pool: /mnt/x"), mistakes: []string{`p.yaml:4:11: profiles.a.pool: bad name "/mnt/x": ` + wantName + ` in "pool: /mnt/x"`}},
		{name: "bare size", src: one("size: 5"), mistakes: []string{`p.yaml:4:11: profiles.a.size: bad size "5": a bare number is ambiguous (use 5GiB for gibibytes or 5B for bytes) in "size: 5"`}},
		{name: "no size", src: one("size: 0GiB"), mistakes: []string{`p.yaml:4:11: profiles.a.size: bad size "0GiB": expected more than 0 (omit the size for no limit) in "size: 0GiB"`}},
		{name: "size of nothing", src: one("size: 0.1B"), mistakes: []string{`p.yaml:4:11: profiles.a.size: bad size "0.1B": expected more than 0 (omit the size for no limit) in "size: 0.1B"`}, loaderOnly: "it does not compute"},
		{name: "size is a list", src: one("size: [5GiB]"), mistakes: []string{`p.yaml:4:11: profiles.a.size: expected a text, not a list in "size: [5GiB]"`}},
		{name: "unknown filesystem", src: one("filesystem: {type: zfs}"), mistakes: []string{`p.yaml:4:24: profiles.a.filesystem.type: unknown filesystem "zfs" (available: ext4, xfs) in "filesystem: {type: zfs}"`}},
		{name: "filesystem is a text", src: one("filesystem: xfs"), mistakes: []string{`p.yaml:4:17: profiles.a.filesystem: expected a mapping, not a text (keys: mount, type) in "filesystem: xfs"`}},
		{name: "nobarrier", src: one("filesystem: {type: ext4, mount: [nobarrier]}"), mistakes: []string{`p.yaml:4:38: profiles.a.filesystem.mount[0]: mount option "nobarrier" is not supported (available: commit=1, commit=15, commit=30, commit=5, delalloc, discard, lazytime, noatime, nodelalloc, nodev, nodiratime, nodiscard, noexec, nosuid, relatime) in "filesystem: {type: ext4, mount: [nobarrier]}"`}},
		{name: "option of the other", src: one("filesystem: {type: ext4, mount: [logbsize=32k]}"), mistakes: []string{`p.yaml:4:38: profiles.a.filesystem.mount[0]: mount option "logbsize=32k" is not supported (available: commit=1, commit=15, commit=30, commit=5, delalloc, discard, lazytime, noatime, nodelalloc, nodev, nodiratime, nodiscard, noexec, nosuid, relatime) in "filesystem: {type: ext4, mount: [logbsize=32k]}"`}},
		{name: "option of one", src: one("filesystem: {mount: [swalloc]}"), mistakes: []string{`p.yaml:4:26: profiles.a.filesystem.mount[0]: mount option "swalloc" is not supported ` + wantMount + `; more with a type of ext4 or xfs) in "filesystem: {mount: [swalloc]}"`}},
		{name: "same option twice", src: one("filesystem: {mount: [noatime, noatime]}"), mistakes: []string{`p.yaml:4:35: profiles.a.filesystem.mount[1]: mount options noatime and noatime exclude each other in "filesystem: {mount: [noatime, noatime]}"`}},
		{name: "options that differ", src: one("filesystem: {mount: [noatime, relatime]}"), mistakes: []string{`p.yaml:4:35: profiles.a.filesystem.mount[1]: mount options noatime and relatime exclude each other in "filesystem: {mount: [noatime, relatime]}"`}, loaderOnly: "it would take a rule for each pair"},
		{name: "mount is a text", src: one("filesystem: {mount: noatime}"), mistakes: []string{`p.yaml:4:25: profiles.a.filesystem.mount: expected a list, not a text in "filesystem: {mount: noatime}"`}},
		{name: "required is a text", src: one("snapshots: {required: \"yes\"}"), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.required: expected true or false, not a text in "snapshots: {required: \"yes\"}"`}},
		{name: "bad schedule", src: one("snapshots: {schedule: often}"), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "often": ` + wantCron + ` in "snapshots: {schedule: often}"`}},
		{name: "schedule with seconds", src: one(`snapshots: {schedule: "0 0 * * * *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 0 * * * *": it has 6 fields, not 5: ` + wantCron + ` in "snapshots: {schedule: \"0 0 * * * *\"}"`}},
		{name: "schedule out of range", src: one(`snapshots: {schedule: "60 * * * *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "60 * * * *": the minute "60" is wrong: expected 0 to 59` + likeCron + ` in "snapshots: {schedule: \"60 * * * *\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "schedule with a bad hour", src: one(`snapshots: {schedule: "0 24 * * *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 24 * * *": the hour "24" is wrong: expected 0 to 23` + likeCron + ` in "snapshots: {schedule: \"0 24 * * *\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "schedule with a bad day", src: one(`snapshots: {schedule: "0 3 32 * *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 3 32 * *": the day "32" is wrong: expected 1 to 31` + likeCron + ` in "snapshots: {schedule: \"0 3 32 * *\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "schedule with a bad month", src: one(`snapshots: {schedule: "0 3 1 13 *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 3 1 13 *": the month "13" is wrong: expected 1 to 12 or JAN to DEC` + likeCron + ` in "snapshots: {schedule: \"0 3 1 13 *\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "schedule with a bad weekday", src: one(`snapshots: {schedule: "0 3 * * 8"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 3 * * 8": the weekday "8" is wrong: expected 0 to 7 or SUN to SAT` + likeCron + ` in "snapshots: {schedule: \"0 3 * * 8\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "schedule that never comes", src: one(`snapshots: {schedule: "0 0 31 2 *"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.schedule: bad schedule "0 0 31 2 *": the time never occurs: month "2" has no day "31" in "snapshots: {schedule: \"0 0 31 2 *\"}"`}, loaderOnly: "it does not know the calendar"},
		{name: "schedule not required", src: one(`snapshots: {required: false, schedule: "@daily"}`), mistakes: []string{`p.yaml:4:27: profiles.a.snapshots.required: a schedule needs snapshots: omit it, or use true in "snapshots: {required: false, schedule: \"@daily\"}"`}},
		{name: "keep alone", src: one("snapshots: {keep: {last: 1}}"), mistakes: []string{`p.yaml:4:17: profiles.a.snapshots.keep: it applies to scheduled snapshots: expected a schedule as well, such as schedule: "@hourly" in "snapshots: {keep: {last: 1}}"`}},
		{name: "keep nothing", src: one(`snapshots: {schedule: "@daily", keep: {last: 0}}`), mistakes: []string{`p.yaml:4:43: profiles.a.snapshots.keep: it keeps nothing: expected a number for last, hourly, daily, weekly or monthly, such as {hourly: 24, daily: 7} in "snapshots: {schedule: \"@daily\", keep: {last: 0}}"`}},
		{name: "keep less than none", src: one(`snapshots: {schedule: "@daily", keep: {last: -1}}`), mistakes: []string{`p.yaml:4:50: profiles.a.snapshots.keep.last: expected a number from 0 to 10000, not -1 in "snapshots: {schedule: \"@daily\", keep: {last: -1}}"`}},
		{name: "keep half", src: one(`snapshots: {schedule: "@daily", keep: {last: 1.5}}`), mistakes: []string{`p.yaml:4:50: profiles.a.snapshots.keep.last: expected a whole number, not a number in "snapshots: {schedule: \"@daily\", keep: {last: 1.5}}"`}},
		{name: "placement by an unknown fact", src: one(`placement: 'load_1 < 3 and architectur == "x"'`), mistakes: []string{`p.yaml:4:32: profiles.a.placement: unknown fact "architectur", did you mean architecture? ` + haveFacts + ` in "placement: 'load_1 < 3 and architectur == \"x\"'"`}, loaderOnly: knowsNoFacts},
		{name: "placement, double quotes", src: one(`placement: "node == \"a\" and lode_1 < 3"`), mistakes: []string{`p.yaml:4:35: profiles.a.placement: unknown fact "lode_1", did you mean load_1? ` + haveFacts + ` in "placement: \"node == \\\"a\\\" and lode_1 < 3\""`}, loaderOnly: knowsNoFacts},
		{name: "placement, single quotes", src: one(`placement: 'node == ''a'' and load_1 < "x"'`), mistakes: []string{`p.yaml:4:44: profiles.a.placement: load_1 is a number and cannot be compared with "x", which is a text in quotes in "placement: 'node == ''a'' and load_1 < \"x\"'"`}, loaderOnly: knowsNoFacts},
		{name: "placement without quotes", src: one(`placement: load_1 <`), mistakes: []string{`p.yaml:4:23: profiles.a.placement: it cannot be read: unexpected token EOF in "placement: load_1 <"`}, loaderOnly: knowsNoFacts},
		{name: "placement over lines", src: one("placement: >-\n      load_1 < 3\n      and x"), mistakes: []string{`p.yaml:4:16: profiles.a.placement: unknown fact "x" ` + haveFacts + ` in "placement: >-"`}, loaderOnly: knowsNoFacts},
		{name: "placement of nothing", src: one(`placement: ""`), mistakes: []string{`p.yaml:4:17: profiles.a.placement: the expression is empty in "placement: \"\""`}},
		{name: "placement is a number", src: one(`placement: 5`), mistakes: []string{`p.yaml:4:16: profiles.a.placement: expected a text, not a number (put it in quotes) in "placement: 5"`}},
		{name: "unknown quiesce", src: one("quiesce: frozen"), mistakes: []string{`p.yaml:4:14: profiles.a.quiesce: unknown way to quiesce "frozen" (available: flush, freeze) in "quiesce: frozen"`}},
		{name: "follow sometimes", src: one("follow: sometimes"), mistakes: []string{`p.yaml:4:13: profiles.a.follow: unknown choice "sometimes" (available: {within: 60s}, always, never) in "follow: sometimes"`}},
		{name: "follow without a time", src: one("follow: {}"), mistakes: []string{`p.yaml:4:13: profiles.a.follow: expected a time, such as {within: 60s}, or always, or never in "follow: {}"`}},
		{name: "follow within nothing", src: one("follow: {within: 0s}"), mistakes: []string{`p.yaml:4:22: profiles.a.follow.within: the time is 0: use never to have it moved only by hand in "follow: {within: 0s}"`}},
		{name: "follow within a number", src: one("follow: {within: 60}"), mistakes: []string{`p.yaml:4:22: profiles.a.follow.within: expected a text, not a number (put it in quotes) in "follow: {within: 60}"`}},
		{name: "quiesce by command", src: one("quiesce: {exec: [sync], timeout: 20s}"), mistakes: []string{`p.yaml:4:15: profiles.a.quiesce.exec: ` + notBuilt + ` in "quiesce: {exec: [sync], timeout: 20s}"`, `p.yaml:4:29: profiles.a.quiesce.timeout: ` + notBuilt + ` in "quiesce: {exec: [sync], timeout: 20s}"`}},
		{name: "quiesce of nothing", src: one("quiesce: {}"), mistakes: []string{`p.yaml:4:14: profiles.a.quiesce: expected freeze or flush in "quiesce: {}"`}},
		{name: "backup that is verified", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 7d, restore: true, check: /etc/drover/checks/mariadb}}`)},
		{name: "backup that is restored for a test", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 12h, restore: true}}`)},
		{name: "backup with half a verification", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 7d}}`), mistakes: []string{`p.yaml:4:55: profiles.a.backup.verify: expected how often the newest backup is restored for a test: {every: 7d, restore: true} in "backup: {to: offsite, schedule: \"@daily\", verify: {every: 7d}}"`}},
		{name: "backup that is verified too often", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 5m, restore: true}}`), mistakes: []string{`p.yaml:4:63: profiles.a.backup.verify.every: expected 1h or more, and 366d at most in "backup: {to: offsite, schedule: \"@daily\", verify: {every: 5m, restore: true}}"`}, loaderOnly: "it does not compare durations"},
		{name: "backup that is verified without a restore", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 7d, restore: false}}`), mistakes: []string{`p.yaml:4:76: profiles.a.backup.verify.restore: expected true: omit verify if backups are not verified in "backup: {to: offsite, schedule: \"@daily\", verify: {every: 7d, restore: false}}"`}},
		{name: "backup with a check program elsewhere", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 7d, restore: true, check: /bin/true}}`), mistakes: []string{`p.yaml:4:89: profiles.a.backup.verify.check: bad check program "/bin/true": it must be below /etc/drover/checks/, where root of each node allows it in "backup: {to: offsite, schedule: \"@daily\", verify: {every: 7d, restore: true, check: /bin/true}}"`}},
		{name: "backup with a sample", src: one(`backup: {to: offsite, schedule: "@daily", verify: {every: 7d, restore: true, sample: 5%}}`), mistakes: []string{`p.yaml:4:82: profiles.a.backup.verify.sample: unknown key "sample" (available: check, every, restore) in "backup: {to: offsite, schedule: \"@daily\", verify: {every: 7d, restore: true, sample: 5%}}"`}},
		{name: "backup to nowhere", src: one(`backup: {schedule: "@daily"}`), mistakes: []string{`p.yaml:4:13: profiles.a.backup: expected a repository and a schedule, such as {to: offsite, schedule: "15 2 * * *"} in "backup: {schedule: \"@daily\"}"`}},
		{name: "backup of the image", src: one("backup: {mode: image}"), mistakes: []string{`p.yaml:4:14: profiles.a.backup.mode: a backup always has the files of the volume: omit mode in "backup: {mode: image}"`}},
		{name: "backup of nothing", src: one("backup: {}"), mistakes: []string{`p.yaml:4:13: profiles.a.backup: expected a repository and a schedule, such as {to: offsite, schedule: "15 2 * * *"} in "backup: {}"`}},
		{name: "backup never", src: one("backup: {to: offsite}"), mistakes: []string{`p.yaml:4:13: profiles.a.backup: expected a repository and a schedule, such as {to: offsite, schedule: "15 2 * * *"} in "backup: {to: offsite}"`}},
		{name: "backup with an unknown key", src: one(`backup: {too: offsite, schedule: "@daily"}`), mistakes: []string{`p.yaml:4:14: profiles.a.backup.too: unknown key "too", did you mean to? (available: keep, schedule, to, verify) in "backup: {too: offsite, schedule: \"@daily\"}"`}},
		{name: "backup to a bad name", src: one(`backup: {to: Off/site, schedule: "@daily"}`), mistakes: []string{`p.yaml:4:18: profiles.a.backup.to: bad repository name "Off/site": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first in "backup: {to: Off/site, schedule: \"@daily\"}"`}},
		{name: "backup at a bad time", src: one(`backup: {to: offsite, schedule: "15 24 * * *"}`), mistakes: []string{`p.yaml:4:37: profiles.a.backup.schedule: bad schedule "15 24 * * *": the hour "24" is wrong: expected 0 to 23, a list such as 1,3, a range such as 1-5, or a step such as */2 in "backup: {to: offsite, schedule: \"15 24 * * *\"}"`}, loaderOnly: "it does not know cron expressions"},
		{name: "backup that keeps nothing", src: one(`backup: {to: offsite, schedule: "@daily", keep: {daily: 0}}`), mistakes: []string{`p.yaml:4:53: profiles.a.backup.keep: it keeps nothing: expected a number for last, hourly, daily, weekly or monthly, such as {hourly: 24, daily: 7} in "backup: {to: offsite, schedule: \"@daily\", keep: {daily: 0}}"`}},
		{name: "backup that keeps too many", src: one(`backup: {to: offsite, schedule: "@daily", keep: {daily: 400, weekly: 101}}`), mistakes: []string{`p.yaml:4:53: profiles.a.backup.keep: its numbers add up to 501 backups of a volume (500 at most) in "backup: {to: offsite, schedule: \"@daily\", keep: {daily: 400, weekly: 101}}"`}, loaderOnly: "it does not add numbers"},
		{name: "warning at a number", src: one("warn_at: 85"), mistakes: []string{`p.yaml:4:14: profiles.a.warn_at: bad percentage "85": expected 1% to 100%, such as 85% in "warn_at: 85"`}},
		{name: "warning at nothing", src: one("warn_at: 0%"), mistakes: []string{`p.yaml:4:14: profiles.a.warn_at: bad percentage "0%": expected 1% to 100%, such as 85% in "warn_at: 0%"`}},
		{name: "warning above the size", src: one("warn_at: 101%"), mistakes: []string{`p.yaml:4:14: profiles.a.warn_at: bad percentage "101%": expected 1% to 100%, such as 85% in "warn_at: 101%"`}},
		{name: "warning at a fraction", src: one("warn_at: 85.5%"), mistakes: []string{`p.yaml:4:14: profiles.a.warn_at: bad percentage "85.5%": expected 1% to 100%, such as 85% in "warn_at: 85.5%"`}},
		{name: "unknown deletion", src: one("on_delete: burn"), mistakes: []string{`p.yaml:4:16: profiles.a.on_delete: unknown choice "burn" (available: {trash: 72h}, keep, purge) in "on_delete: burn"`}},
		{name: "trash without time", src: one("on_delete: trash"), mistakes: []string{`p.yaml:4:16: profiles.a.on_delete: unknown choice "trash" (available: {trash: 72h}, keep, purge) in "on_delete: trash"`}},
		{name: "deletion of nothing", src: one("on_delete: {}"), mistakes: []string{`p.yaml:4:16: profiles.a.on_delete: expected a time, such as {trash: 72h}, or keep, or purge in "on_delete: {}"`}},
		{name: "trash in days", src: one("on_delete: {trash: 3d}")},
		{name: "trash in weeks and hours", src: one("on_delete: {trash: 1w12h}")},
		{name: "trash in months", src: one("on_delete: {trash: 3mo}"), mistakes: []string{`p.yaml:4:24: profiles.a.on_delete.trash: bad duration "3mo": ` + wantTrash + ` in "on_delete: {trash: 3mo}"`}},
		{name: "trash for no time", src: one("on_delete: {trash: 0s}"), mistakes: []string{`p.yaml:4:24: profiles.a.on_delete.trash: the time is 0: use purge to have the data destroyed immediately in "on_delete: {trash: 0s}"`}},
		{name: "owner by name", src: one("owner: {uid: mysql, gid: 1}"), mistakes: []string{`p.yaml:4:18: profiles.a.owner.uid: expected a whole number, not a text in "owner: {uid: mysql, gid: 1}"`}},
		{name: "owner without group", src: one("owner: {uid: 1}"), mistakes: []string{`p.yaml:4:12: profiles.a.owner: expected uid and gid, such as {uid: 999, gid: 999} in "owner: {uid: 1}"`}},
		{name: "owner left", src: one("owner: {uid: 4294967295, gid: 1}"), mistakes: []string{`p.yaml:4:18: profiles.a.owner.uid: expected a number from 0 to 4294967294, not 4294967295 in "owner: {uid: 4294967295, gid: 1}"`}},
		{name: "mode without quotes", src: one("owner: {uid: 1, gid: 1, mode: 0750}"), mistakes: []string{`p.yaml:4:35: profiles.a.owner.mode: expected a text, not a number (put it in quotes) in "owner: {uid: 1, gid: 1, mode: 0750}"`}},
		{name: "mode out of range", src: one(`owner: {uid: 1, gid: 1, mode: "17777"}`), mistakes: []string{`p.yaml:4:35: profiles.a.owner.mode: bad mode "17777": expected octal permission bits, such as 0750 in "owner: {uid: 1, gid: 1, mode: \"17777\"}"`}},
	}
}
