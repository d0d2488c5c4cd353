package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// guesses has command lines that users of docker, kubectl, zfs, restic and systemctl type. A value that begins with
// drover is the command line that is run instead. Any other value is a part of the error.
var guesses = map[string]string{
	"ls":                             "drover volume ls",
	"list":                           "drover volume ls",
	"ls -a":                          "drover volume ls",
	"ls --all":                       "drover volume ls",
	"ls -q":                          "drover volume ls -q",
	"ls db":                          "drover volume ls --filter=name=db",
	"ls -l team=shop db":             "drover volume ls -l team=shop --filter=name=db",
	"volume ls db@gold":              "drover volume ls --filter=name=db",
	"volume ls --json":               "drover volume ls --output=json",
	"volume ls --yaml":               "drover volume ls --output=yaml",
	"volume ls --no-trunc":           "drover volume ls --output=wide",
	"volume ls --wide":               "drover volume ls --output=wide",
	"volume ls -v":                   "drover volume ls --output=wide",
	"volume ls --format json":        "drover volume ls --output=json",
	"volume ls --format={{.volume}}": "drover volume ls --output=template={{.volume}}",
	"volume ls --format x":           "unknown flag: --format (use -o template=TEXT)",
	"volume ls -f status=idle":       "drover volume ls --filter status=idle",
	"volume ls -f dangling=true":     "drover volume ls --filter=status=idle",
	"volume ls --filter label=a=b":   "drover volume ls --label=a=b",
	"volume ls --selector a=b":       "drover volume ls --label=a=b",
	"profile explain gold":           "drover profile show gold",
	"explain db":                     "drover volume inspect db",
	"doctor --explain":               "each finding has its next command",
	"operation retry x":              "repeat the command that failed; drover operation inspect ID shows the error",
	"snapshot sizes":                 "drover snapshot ls --size",
	"snapshot size db":               "drover snapshot ls --size db",
	"snapshot du db":                 "drover snapshot ls --size db",
	"snapshot diff db a --files":     "it counts bytes; to compare files, mount a writable copy: drover clone VOLUME@SNAPSHOT NEW",
	"pool drain fast":                "a volume leaves its pool by drover volume move NAME NODE",
	"pool cordon fast":               "a volume leaves its pool by drover volume move NAME NODE",
	"volume set-schedule db x":       "a schedule belongs to a profile",
	"alerts":                         "share/doc/drover/drover.rules.yaml",
	"pool check default":             "use drover backend verify POOL for the storage",
	"backend verify --pool default":  "drover backend verify default",
	"completion":                     "missing argument: SHELL (available: bash, fish, zsh)",
	"volume ls --format {{.Name}}":   "drover volume ls --output=template={{.Name}}",
	"apply":                          "then systemctl reload drover; after a change of drover.yaml, systemctl restart drover",
	"backup prune db --keep 1":       "prune removes no backup: use drover backup rm --dry-run BACKUP",
	"backup prune --older-than 30d":  "prune removes no backup: use drover backup rm --dry-run BACKUP",
	"backup prune --keep-daily 7":    "prune removes no backup: use drover backup rm --dry-run BACKUP",
	"pool expand main":               "a pool grows with its device or filesystem",
	"store restore FILE":             "use drover store rebuild on one host",
	"profile reload":                 "kill -HUP of drover serve",
	"operation kill x":               "use drover operation cancel ID",
	"volume ls --reverse":            "use --sort -KEY",
	"volume label db --rm a":         "use drover volume label NAME KEY-",
	"volume move db --to-pool fast":  "a volume stays in its pool",
	"volume df db":                   "drover volume ls --filter=name=db",
	"volume ls --filter label.a=b":   "drover volume ls --label=a=b",
	"unalias old":                    "use drover volume rename --drop-alias ALIAS NAME",
	"volume drop-alias old db":       "use drover volume rename --drop-alias ALIAS NAME",
	"volume unalias old":             "use drover volume rename --drop-alias ALIAS NAME",
	"volume import /srv/data db":     "use: drover volume import db --from /srv/data",
	"volume throttle db 5MiB":        "qos: {write_bps: 5MiB} in profiles.yaml, systemctl reload drover, then drover volume set-profile",
	"volume limit db":                "qos: {write_bps: 5MiB} in profiles.yaml, systemctl reload drover, then drover volume set-profile",
	"schedule ls":                    "a schedule belongs to a profile: change snapshots.schedule in profiles.yaml",
	"snapshot name db x":             "a snapshot keeps its name; drover snapshot create VOLUME NAME takes another",
	"snapshot ls --next":             "use drover volume inspect NAME",
	"completion bash -o FILE":        "write the output to a file: drover completion bash > FILE",
	"volume ls --filter used=>1GiB":  "use 'used>=1GiB'",
	"volume ls --filter used>80%":    "used is no percentage (use 'use>80%')",
	"volume ls --filter pool>1GiB":   "pool cannot be compared (available: content, created, ",
	"volume ls --pool main":          "drover volume ls --filter=pool=main",
	"volume ls --node=alpha":         "drover volume ls --filter=node=alpha",
	"volume ls --status idle":        "drover volume ls --filter=status=idle",
	"volume ls --sort-by used":       "drover volume ls --sort=used",
	"volume ls -w":                   "drover volume ls -w",
	"volume ls -t snapshot":          "use drover snapshot ls",
	"volume ls one two":              "unexpected argument: one",
	"vol ls":                         "drover vol ls",
	"repos":                          "drover repository ls",
	"repository create x /x":         "drover repository add x /x",
	"repository init x /x":           "drover repository add x /x",
	"repository verify x":            "drover repository check x",
	"volumes":                        "drover volume ls",
	"volumes ls":                     "drover volume ls",
	"ps":                             "drover volume ls",
	"ps -a":                          "drover volume ls",
	"ps db":                          "drover volume inspect db",
	"volume ps":                      "drover volume ls",
	"volume ps db":                   "drover volume inspect db",
	"du":                             "drover volume ls",
	"get volumes":                    "drover volume ls",
	"get volumes -o wide":            "drover volume ls -o wide",
	"get volume db":                  "drover volume inspect db",
	"get nodes":                      "drover node ls",
	"get db":                         "drover volume inspect db",
	"describe volume db":             "drover volume inspect db",
	"describe db":                    "drover volume inspect db",
	"inspect db":                     "drover volume inspect db",
	"inspect db test --json":         "drover volume inspect db test --output=json",
	"show db":                        "drover volume inspect db",
	"status db":                      "drover volume inspect db",
	"fsck db":                        "drover volume inspect db",
	"volume users db":                "drover volume inspect db",
	"volume holders db":              "drover volume inspect db",
	"volume mountpoint db":           "drover volume inspect db",
	"volume inspect db -f {{.Name}}": "drover volume inspect db --output=template={{.Name}}",
	"volume db":                      "(if it is the name of a volume: drover volume inspect db)",
	"pool main":                      "(if it is the name of a pool: drover pool inspect main)",
	"volume help":                    "drover help volume",
	"volume help grow":               "drover help volume grow",
	"help volume grow":               "drover help volume resize",
	"help df":                        "drover help df",
	"df --help":                      "drover df --help",

	"create db@gold":   "drover volume create db@gold",
	"create volume db": "drover volume create db",
	"volume new db":    "drover volume create db",
	"volume create db --size 1GiB --label=a=b --protect": "drover volume create db -o size=1GiB -o label.a=b -o protect",
	"volume create db -p gold -s 1GiB":                   "drover volume create db@gold -o size=1GiB",
	"volume create -p gold db":                           "drover volume create db@gold",
	"volume create db@gold --profile gold":               "drover volume create db@gold",
	"volume create -d drover --name db":                  "drover volume create db",
	"volume create db --protected":                       "drover volume create db -o protect",
	"volume create db --pool main":                       "drover volume create db -o pool=main",
	"volume create db@bronze -p gold":                    "unknown flag: -p (use: drover volume create db@gold); see",
	"volume create db --size":                            "unknown flag: --size (use: drover volume create db -o size=SIZE); see",
	"volume create db --driver local":                    "unknown flag: --driver (use: drover volume create db); see",
	"volume create db --node host-a":                     "drover volume create db -o node=host-a",
	"volume create db gold":                              "(use: drover volume create db@gold); see",
	"clone db copy --profile gold -q":                    "drover clone db copy@gold -q",
	"clone db -p gold":                                   "(use: drover clone db NEW@gold); see",
	"volume clone db copy":                               "drover clone db copy",
	"volume copy db copy":                                "drover clone db copy",
	"snapshot clone db@first copy":                       "drover clone db@first copy",
	"cp db copy":                                         "drover clone db copy",

	"rm db":                       "drover volume rm db",
	"rm db other":                 "drover volume rm db other",
	"delete volume db":            "drover volume rm db",
	"destroy db":                  "drover volume rm db",
	"volume destroy db":           "drover volume rm db",
	"volume rm -y db":             "drover volume rm --yes db",
	"rm --yes db":                 "drover volume rm --yes db",
	"volume rm -n db":             "drover volume rm --dry-run db",
	"volume rm -f db":             "a volume in use, or protected, is not deleted",
	"rm -rf db":                   "a volume in use, or protected, is not deleted",
	"unlock db":                   "use drover volume unprotect NAME",
	"volume unlock db":            "use drover volume unprotect NAME",
	"lock db":                     "drover volume protect db",
	"pool destroy main":           "drover pool rm main",
	"snapshot rm db a -y":         "drover snapshot rm db a",
	"volume prune":                "and drover volume rm --dry-run NAME",
	"trash empty":                 "drover trash purge --all",
	"trash empty -y":              "drover trash purge --all --yes",
	"trash purge --all --force":   "the command asks for a confirmation, and --yes skips it",
	"trash rm db":                 "drover trash rm db",
	"trash show db":               "drover trash ls --filter=volume=db",
	"trash list --json":           "drover trash list --output=json",
	"undelete db":                 "drover trash restore db",
	"volume undelete db":          "drover trash restore db",
	"trash undelete db":           "drover trash restore db",
	"trash restore db --as other": "drover trash restore db other",
	"recycle":                     "drover trash ls",

	"volume grow db +64M":              "drover volume resize --grow db +64M",
	"volume extend db 900MiB":          "drover volume resize --grow db 900MiB",
	"grow db 4608MiB":                  "drover volume resize --grow db 4608MiB",
	"volume resize db --size 2GiB":     "drover volume resize db 2GiB",
	"volume resize -s 2GiB db":         "drover volume resize db 2GiB",
	"volume resize db --by 1GiB":       "drover volume resize db +1GiB",
	"volume resize db -64M":            "to shrink a volume, give its new size",
	"volume shrink db 1GiB":            "did you mean drover volume resize db 1GiB?",
	"volume set db size=1G":            "use drover volume resize NAME SIZE",
	"set quota=1G db":                  "use drover volume resize NAME SIZE",
	"volume set-profile db -p gold":    "drover volume set-profile db gold",
	"label db a=b":                     "drover volume label db a=b",
	"label node host-a a=b":            "drover node label host-a a=b",
	"rename db other":                  "drover volume rename db other",
	"mv db other":                      "did you mean drover volume rename db other?",
	"adopt blog":                       "use drover adopt-project PROJECT",
	"project adopt blog":               "use drover adopt-project PROJECT",
	"compose adopt blog":               "use drover adopt-project PROJECT",
	"migrate blog":                     "to move a project of Docker Compose into volumes of Drover: drover adopt-project PROJECT",
	"migrate db host-b":                "drover volume move db host-b",
	"volume move db --to host-b":       "drover volume move db host-b",
	"volume rm db --async":             "drover volume rm db --detach",
	"volume resize db 2GiB --wait":     "drover volume resize db 2GiB",
	"export db":                        "drover volume export db",
	"volume import db --from - --json": "drover volume import db --from - --output=json",

	"snap db":                         "drover snapshot create db",
	"snap db first":                   "drover snapshot create db first",
	"snapshot db@first":               "drover snapshot create db@first",
	"snapshot db":                     "(to list the snapshots of a volume: drover snapshot ls db; to take one: drover snapshot create db)",
	"snapshot take db":                "drover snapshot create db",
	"snap ls db":                      "drover snap ls db",
	"snap lss":                        "did you mean ls?",
	"snapshots":                       "drover snapshot ls",
	"snapshots db":                    "drover snapshot ls db",
	"volume snapshots db":             "drover snapshot ls db",
	"list snapshots db":               "drover snapshot ls db",
	"diff db first":                   "drover snapshot diff db first",
	"snapshot rollback db first":      "did you mean drover snapshot restore db first?",
	"rollback db first":               "did you mean drover snapshot restore db first?",
	"snapshot restore db@first":       "drover snapshot restore db@first",
	"snapshot restore db":             "missing argument: SNAPSHOT",
	"snapshot prune db --days 3":      "use drover snapshot prune --dry-run VOLUME --older-than 3d",
	"restore db first":                "use drover snapshot restore VOLUME SNAPSHOT",
	"forget db first":                 "use drover backup rm --dry-run BACKUP for a backup, or drover snapshot rm --dry-run",
	"snapshot prune db --keep-last 2": "drover snapshot prune db --keep=2",
	"backup prune --dry-run":          "prune removes no backup, only data that no backup needs",
	"backup prune --yes":              "prune asks for no confirmation, because it removes no backup",
	"cloudsnap list":                  "use drover backup create VOLUME",
	"metrics":                         "curl --unix-socket /run/drover/drover.sock http://drover/metrics",
	"backup db":                       "(to back up a volume: drover backup create db)",
	"backup make db":                  "drover backup create db",
	"volume backup db":                "drover backup create db",

	"events --volume db":           "drover events --filter=volume=db",
	"events --type x":              "drover events --filter=type=x",
	"events --limit 3":             "drover events --tail=3",
	"events --watch":               "drover events --follow",
	"events --until 1h":            "drover events --until 1h",
	"events --older-than 3d":       "drover events --until=3d",
	"op ls --since 2h":             "drover op ls --newer-than=2h",
	"logs":                         "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of drover serve), and drover events",
	"log":                          "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of drover serve), and drover events",
	"logs -f db":                   "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of drover serve), and drover events",
	"logs --tail 20 db":            "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of drover serve), and drover events",
	"volume logs db":               "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of drover serve), and drover events",
	"get pvc":                      "drover volume ls",
	"get pvc db -o yaml":           "drover volume inspect db -o yaml",
	"get pv":                       "drover volume ls",
	"get sc":                       "drover profile ls",
	"get storageclass gold":        "drover profile show gold",
	"get backups":                  "drover backup ls",
	"get events":                   "drover events",
	"describe pvc db":              "drover volume inspect db",
	"describe node host-a":         "drover node inspect host-a",
	"top nodes":                    "drover node ls",
	"top node host-a":              "drover node ls --filter=name=host-a",
	"node top":                     "drover node ls",
	"backup run db":                "drover backup create db",
	"backup start db web":          "drover backup create db web",
	"backup list":                  "drover backup list",
	"volume resize":                "missing argument: NAME; see drover volume resize --help",
	"snapshot rollback":            "did you mean drover snapshot restore?",
	"volume history db":            "drover events db",
	"top":                          "drover volume stats",
	"stats db":                     "drover volume stats db",
	"df":                           "drover df",
	"system df":                    "drover df",
	"pool list":                    "drover pool list",
	"pools":                        "drover pool ls",
	"pool ls main":                 "drover pool ls --filter=name=main",
	"pool status":                  "drover pool ls",
	"pool status main":             "drover pool inspect main",
	"pool info main":               "drover pool inspect main",
	"pool usage":                   "drover pool ls",
	"pool scrub main":              "use drover backend verify POOL",
	"pool import":                  "use drover pool adopt PATH",
	"pool rm main --force":         "only an empty pool is removed",
	"node list":                    "drover node list",
	"nodes":                        "drover node ls",
	"hosts":                        "drover node ls",
	"cordon host-a":                "drover node cordon host-a",
	"drain host-a":                 "did you mean drover node drain host-a?",
	"node update host-a":           "use drover node cordon NAME",
	"op ls":                        "drover op ls",
	"op ls --state done":           "drover op ls --filter=state=done",
	"op ls db":                     "drover op ls --filter=volume=db",
	"operation show 0b":            "drover operation show 0b",
	"operation logs 0b":            "drover operation inspect 0b",
	"operation wait 0b":            "drover operation watch 0b",
	"jobs":                         "drover operation ls",
	"profiles":                     "drover profile ls",
	"profile describe gold":        "drover profile show gold",
	"profile add gold":             "add the profile to /etc/drover/profiles.yaml",
	"health":                       "drover status",
	"support":                      "drover support-bundle",
	"support bundle":               "drover support-bundle",
	"report":                       "drover support-bundle",
	"check":                        "drover doctor",
	"cluster-info":                 "drover status",
	"version --short":              "drover --version",
	"-V":                           "drover --version",
	"-H unix:///x ls":              "drover --api=unix:///x volume ls",
	"--server unix:///x df":        "drover --api=unix:///x df",
	"--json volume ls":             "drover volume ls --output=json",
	"-o json volume ls":            "drover volume ls -o json",
	"exec db":                      "use docker exec",
	"enable":                       "use systemctl enable drover",
	"is-active":                    "use systemctl is-active drover",
	"volume":                       "drover volume",
	"volume mv db host-b":          "use drover volume move NAME NODE",
	"volume fsck db":               "use drover volume inspect NAME for its problem",
	"volume chown db 1000":         "in profiles.yaml: owner",
	"volume promote db":            "use drover volume move NAME NODE",
	"rebalance":                    "use drover volume move NAME NODE",
	"volume rotate-key db":         "use drover volume rekey NAME",
	"lease ls":                     "shows the node and the lease",
	"join host-a":                  "use drover node token --name NAME",
	"node ps host-a":               "use drover volume ls --filter node=NAME",
	"pool volumes main":            "use drover volume ls --filter pool=NAME",
	"cluster ls":                   "use drover status, drover node ls",
	"zpool status":                 "use drover pool ls",
	"kill 0b":                      "use drover operation cancel ID",
	"trash expire db":              "in profiles.yaml: on_delete",
	"snapshot keep db first":       "snapshots.keep in profiles.yaml",
	"snapshot send db first":       "use drover volume export VOLUME --snapshot NAME -o FILE",
	"user add bob":                 "access is by certificates: drover ca issue",
	"pool scan":                    "use drover pool adopt PATH",
	"pool replace main /dev/x":     "status has the next command for a pool without its disk",
	"control ls":                   "(it starts a service; drover status shows the state of all)",
	"leader":                       "use drover status",
	"audit db":                     "grep NAME /var/lib/drover/audit.log",
	"qos db":                       "limits of speed belong to a profile",
	"encrypt db":                   "profiles.yaml: encryption; drover volume set-profile --dry-run NAME PROFILE",
	"maintenance host-a":           "use drover node drain NAME",
	"node failover host-a":         "if the node is lost, use drover node drain NAME; its --help says how",
	"cert ls":                      "status names certificates that expire soon",
	"version --all":                "use drover node ls for the versions of all nodes",
	"doctor --fix":                 "doctor changes nothing",
	"operation cancel":             "missing argument: ID (drover operation ls lists them)",
	"cluster status":               "drover status",
	"node ls --filter rack=a":      "for a label: --label rack=VALUE",
	"volume inspect db --yaml":     "drover volume inspect db --output=yaml",
	"backup check offsite":         "use drover repository check NAME",
	"backup mount 1c09":            "use drover backup restore BACKUP NEW",
	"backup forget 1c09":           "use drover backup rm --dry-run BACKUP",
	"backup schedule db":           "set backup in profiles.yaml",
	"backup create --all":          "name the volumes",
	"backup frobnicate --x":        `unknown command "frobnicate" for backup (available: create`,
	"remotes":                      "a remote is a repository: use drover repository add",
	"versions offsite":             "drover repository versions offsite",
	"volume push db offsite":       "drover push db offsite",
	"volume pull offsite/db":       "drover pull offsite/db",
	"fetch offsite/db":             "did you mean drover pull offsite/db?",
	"remote ls":                    "a remote is a repository: use drover repository add",
	"remote add offsite /srv/x":    "use drover repository add, drover repository versions",
	"remote grant create ann":      "docs/push-and-pull.md shows how to serve repositories to other parties",
	"push db offsite --force":      "a push never replaces what the repository has",
	"pull offsite/db --force":      "a pull never changes an existing volume",
	"push db":                      "missing argument: REPOSITORY",
	"repository unlock offsite":    "wait for the other run of restic",
	"repository stats offsite":     "use drover repository inspect NAME",
	"snapshot hold db first":       "stay until they are removed",
	"replica rebuild db":           "replicas are updated automatically",
	"rebuild db":                   "replicas are updated automatically",
	"step-down":                    "replicas of control are equal",
	"events --failed":              "use drover operation ls --filter state=failed",
	"operation ls --failed":        "use --filter state=failed",
	"stats --no-stream":            "drover volume stats",
	"pool create x /var/lib/x.img": "--path /var/lib/x.img --image SIZE",
	"mv db db2":                    "did you mean drover volume rename db db2?",
	"job ls":                       "drover operation ls",
	"job 4f1d":                     "drover operation inspect 4f1d",
	"jobs ls":                      "drover operation ls",
	"task":                         "drover operation ls",
	"tasks ls":                     "drover operation ls",
	"host ls":                      "drover node ls",
	"host alpha":                   "drover node inspect alpha",
	"hosts ls":                     "drover node ls",
	"server cordon alpha":          "drover node cordon alpha",
	"images":                       "docker has the rest",
	"journalctl":                   "shows the log of the service",
	"service ls":                   "shows the services of this host",
	"cat db":                       "use docker run --rm",
	"sched-policy ls":              "a schedule belongs to a profile",
	"config view":                  "check them with drover config check",
	"serve --check":                "use drover config check FILE",
	"ca list":                      "drover ca list",
	"cp db:/etc/file .":            "use docker cp CONTAINER:/PATH FILE",
	"cp db:/etc/file":              "use docker cp CONTAINER:/PATH FILE",
	"volume cp ./file db":          "use docker cp CONTAINER:/PATH FILE",
	"get pods":                     "Drover only manages volumes",
	"get pods -o wide":             "Drover only manages volumes",
	"holds db":                     "use drover volume inspect NAME for the users of a volume",
	"find db":                      "use drover volume ls --filter name='*TEXT*'",
	"context ls":                   "--api ADDRESS or DROVER_API names the server",
	"scale db 3":                   "use drover volume resize NAME SIZE",
	"whoami":                       "the server knows you as your user on this host",
	"serve --conf x":               "(did you mean --config?)",
	"config check --conf x":        "(did you mean --config?)",
	"versions --filter x=y":        "see drover repository versions --help",
	"--api unix:///srv/d metrics":  "use curl --unix-socket /srv/d http://drover/metrics",
	"volume ls -- db":              "drover volume ls -- db",
}

// TestAcceptedGuesses: each guess is accepted or gets an error with what to type. No guess skips a confirmation or
// overrides a protection that its words do not name.
func TestAcceptedGuesses(t *testing.T) {
	root := newRootCmd(newConsole(theWorld()).App)
	for words, want := range guesses {
		typed := strings.Fields(words)
		line := cli.Translate(root, slices.Clone(typed))
		if taken := "drover " + strings.Join(line, " "); !strings.HasPrefix(want, "drover ") {
			c := newConsole(theWorld())
			if code := c.run(t, typed...); code != 2 || !strings.Contains(c.err.String(), want) {
				t.Errorf("drover %s: exit %d, %q, want 2 and %q", words, code, c.err.String(), want)
			}
		} else if taken != want {
			t.Errorf("drover %s: taken as %s, want %s", words, taken, want)
		} else if err := parseLine(line); err != nil {
			t.Errorf("drover %s: %s: %v", words, want, err)
		}
		for _, w := range []string{"--yes", "--force", "--fenced"} {
			if slices.Contains(line, w) && !slices.Contains(typed, w) && (w != "--yes" || !slices.Contains(typed, "-y")) {
				t.Errorf("drover %s has %s", words, w)
			}
		}
	}
	if len(guesses) < 120 {
		t.Errorf("only %d guesses", len(guesses))
	}
}

// parseLine fails if a command line names no command, or if the command has not its flags.
func parseLine(line []string) error {
	if line[0] == "help" {
		line = line[1:]
	}
	if line[0] == "--version" {
		return nil
	}
	root := newRootCmd(newConsole(theWorld()).App)
	cmd, rest, err := root.Find(line)
	if err != nil || cmd == root {
		return fmt.Errorf("no command: %w", err)
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return nil
}

// TestGuessesAsk: a guess that destroys something asks as its command does.
func TestGuessesAsk(t *testing.T) {
	for _, words := range []string{
		"trash empty", "rm db", "destroy db", "delete volume db", "pool destroy plain", "trash erase old",
	} {
		f := theWorld()
		f.volumes[0].Profile.OnDelete.Mode = dataset.DeletePurge
		c := newConsole(f)
		code := c.run(t, strings.Fields(words)...)
		for _, line := range f.asked {
			if !onlyAsks(line) {
				t.Errorf("drover %s: %s", words, line)
			}
		}
		if code != 2 || !strings.Contains(c.err.String(), "this requires confirmation") {
			t.Errorf("drover %s: exit %d, %s", words, code, c.err.String())
		}
	}
}

// TestNoSuggestionOfAnotherNounChangesState: below a noun, an unknown word is not taken as a command of another noun
// that changes something.
func TestNoSuggestionOfAnotherNounChangesState(t *testing.T) {
	for _, words := range []string{
		"repository unprotect x", "backup rename a b", "pool drain x", "ca prune", "trash cordon x", "profile rotate",
		"snapshot cancel x", "store revoke x", "operation move x",
	} {
		c := newConsole(theWorld())
		if code := c.run(t, strings.Fields(words)...); code != 2 || strings.Contains(c.err.String(), "did you mean drover") {
			t.Errorf("drover %s: exit %d, %s", words, code, c.err.String())
		}
	}
}
