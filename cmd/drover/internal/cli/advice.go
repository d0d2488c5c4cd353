package cli

import (
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// advice has the hints about unknown words and flags that no single command can replace. A key is the command without
// the program's name, and the unknown word or flag after it. A text that suggests a command which destroys data has
// --dry-run. foreignAdvice and backupAdvice are further parts of this table. No key is in two parts, and no key of
// several words is a synonym.
var advice = map[string]string{
	"restore": "use drover snapshot restore VOLUME SNAPSHOT, drover backup restore BACKUP NEW, or " +
		"drover trash restore NAME for a deleted volume",
	"mount": "Docker mounts a volume for a container, docker run -v NAME:/PATH IMAGE, and docker volume inspect NAME " +
		"shows the folder",
	"unmount": "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them",
	"umount":  "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them",
	"info":    "use drover status, or drover volume inspect NAME",
	"init":    "start drover serve for one host, or drover ca init for a cluster",
	"upgrade": "replace the program and restart its service, and drover version shows the versions",
	"update":  "replace the program and restart its service, or change a volume with drover volume set-profile",
	"start":   "start drover serve, or systemctl start drover",
	"stop":    "stop the service with systemctl stop drover; running containers keep their volumes",
	"restart": "restart the service with systemctl restart drover; running containers keep their volumes",
	"reload":  "read profiles.yaml again with systemctl reload drover",
	"daemon":  "start drover serve for one host, or drover agent and drover control for a cluster",
	"verify":  "use drover backend verify POOL for the storage, or drover doctor for the host",
	"tag":     "use drover volume label NAME KEY=VALUE, or drover snapshot create VOLUME NAME",
	"quota":   "use drover volume resize NAME SIZE",

	"adopt":   adoptProject,
	"project": adoptProject, "projects": adoptProject, "compose": adoptProject, "docker-compose": adoptProject,

	"set": changeVolume, "change": changeVolume, "edit": changeVolume, "modify": changeVolume,
	"volume set": changeVolume, "volume change": changeVolume, "volume edit": changeVolume,
	"volume update": changeVolume, "volume modify": changeVolume,

	"run":  "start a container with the volume: docker run -v NAME:/PATH IMAGE",
	"exec": "use docker exec in a container with the volume; drover volume inspect NAME lists them",
	"apply": "edit profiles.yaml in /etc/drover, then systemctl reload drover; after a change of drover.yaml, " +
		"systemctl restart drover",
	"enable":    "use systemctl enable drover",
	"disable":   "use systemctl disable drover",
	"is-active": "use systemctl is-active drover, or drover status",
	"forget": "use drover backup rm --dry-run BACKUP for a backup, or drover snapshot rm --dry-run VOLUME SNAPSHOT " +
		"for a snapshot, and the same without --dry-run",
	"recv":      "use drover volume import SPEC --from - < FILE",
	"--debug":   "start the service with --log-level debug",
	"prune":     noPrune,
	"gc":        noPrune,
	"system":    "use drover status, drover pool ls for the free space, or drover doctor",
	"scrub":     "use drover doctor for the host, or drover backend verify POOL for the storage",
	"send":      "use drover volume move NAME NODE, or drover volume export NAME -o FILE",
	"receive":   "use drover volume import SPEC --from - < FILE",
	"replicate": replicasInProfile,
	"encrypt":   encryptByProfile,
	"metrics":   readMetrics, // advise replaces the socket by the one in use
	"log":       serviceLog, "logs": serviceLog, "journal": serviceLog, "journalctl": serviceLog, "syslog": serviceLog,
	"volume log": serviceLog, "volume logs": serviceLog,

	"service": services, "services": services, "systemctl": services,
	"image": onlyVolumes, "images": onlyVolumes, "container": onlyVolumes, "containers": onlyVolumes,
	"network": onlyVolumes, "networks": onlyVolumes, "pod": onlyVolumes, "pods": onlyVolumes,
	"deployments": onlyVolumes, "statefulsets": onlyVolumes, "namespaces": onlyVolumes,
	"cat": readFile, "volume cat": readFile, "volume files": readFile,
	"unlock": unlockVolume, "volume unlock": unlockVolume,
	"sched-policy": scheduleInProfile, "volume sched-policy": scheduleInProfile,

	"attach":  "start a container with the volume: docker run -v NAME:/PATH IMAGE",
	"detach":  "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them",
	"promote": "if the node of a volume is lost, use drover volume move NAME NODE; its --help says how",
	"quiesce": "freezing before a snapshot belongs to a profile, in profiles.yaml: quiesce",

	"volume attach":       "start a container with the volume: docker run -v NAME:/PATH IMAGE",
	"unalias":             dropAlias,
	"drop-alias":          dropAlias,
	"volume unalias":      dropAlias,
	"volume drop-alias":   dropAlias,
	"throttle":            speedInProfile,
	"limit":               speedInProfile,
	"volume throttle":     speedInProfile,
	"volume limit":        speedInProfile,
	"volume tag":          "use drover volume label NAME KEY=VALUE",
	"volume profile":      "use drover volume set-profile NAME PROFILE, or drover volume inspect NAME to see it",
	"volume replicate":    replicasInProfile,
	"volume encrypt":      encryptByProfile,
	"volume quota":        "use drover volume resize NAME SIZE",
	"alerts":              alertRules,
	"rules":               alertRules,
	"metrics rules":       alertRules,
	"set-schedule":        scheduleInProfile,
	"volume set-schedule": scheduleInProfile,
	"volume schedule":     scheduleInProfile,
	"volume freeze":       "freezing before a snapshot belongs to a profile, in profiles.yaml: quiesce",

	"volume ls -t":         "use drover snapshot ls",
	"volume ls --unused":   "use --filter status=idle",
	"volume ls --dangling": "use --filter status=idle",
	"pool create --size":   "use --path FILE --image SIZE for a pool in an image file of that size",

	"volume restore": "use drover snapshot restore VOLUME SNAPSHOT, drover backup restore BACKUP NEW, or " +
		"drover trash restore NAME for a deleted volume",
	"volume snapshot": "use drover snapshot create VOLUME NAME, or drover snapshot ls VOLUME",
	"volume snap":     "use drover snapshot create VOLUME NAME, or drover snapshot ls VOLUME",
	"volume mount": "Docker mounts a volume for a container, docker run -v NAME:/PATH IMAGE, and docker volume " +
		"inspect NAME shows the folder",
	"volume unmount": "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them",
	"volume umount":  "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them",
	"volume prune":   noPrune,

	"doctor --explain":   "each finding has its next command, and docs/operations.md more about it",
	"operation retry":    "repeat the command that failed; drover operation inspect ID shows the error",
	"operation rerun":    "repeat the command that failed; drover operation inspect ID shows the error",
	"schedule":           scheduleInProfile + "; drover volume inspect NAME shows when the next snapshot is due",
	"snapshot ls --next": "use drover volume inspect NAME",
	"completion -o":      "write the output to a file: drover completion bash > FILE",

	"snapshot name":                "a snapshot keeps its name; drover snapshot create VOLUME NAME takes another",
	"snapshot rename":              "a snapshot keeps its name; drover snapshot create VOLUME NAME takes another",
	"snapshot schedule":            scheduleInProfile,
	"snapshot prune --days":        pruneByAge,
	"snapshot prune --keep-within": pruneByAge,
	"snapshot prune --all":         pruneByAge,
	"snapshot export":              "use drover volume export VOLUME --snapshot NAME -o FILE",
	"snapshot mount":               "use drover clone VOLUME@SNAPSHOT NEW, and start a container with the new volume",

	"config show":     configFiles,
	"config view":     configFiles,
	"config ls":       configFiles,
	"config get":      configFiles,
	"config edit":     configFiles,
	"config set":      configFiles,
	"config reload":   "for profiles.yaml use systemctl reload drover, and for drover.yaml systemctl restart drover",
	"serve --check":   "use drover config check FILE",
	"serve --dry-run": "use drover config check FILE",

	"profile create": "add the profile to /etc/drover/profiles.yaml, check it with drover profile check FILE, then " +
		"systemctl reload drover",
	"profile add": "add the profile to /etc/drover/profiles.yaml, check it with drover profile check FILE, then " +
		"systemctl reload drover",
	"profile edit": "edit /etc/drover/profiles.yaml, check it with drover profile check FILE, then " +
		"systemctl reload drover",
	"profile set": "edit /etc/drover/profiles.yaml, or give a volume another profile with drover volume set-profile",
	"profile rm": "remove the profile from /etc/drover/profiles.yaml, then systemctl reload drover; volumes keep the " +
		"profile that they were created with",

	"pool resize":  growPool,
	"pool enlarge": growPool,
	"pool expand":  growPool,
	"pool extend":  growPool,
	"store restore": "use drover store rebuild on one host, or drover store recover in a cluster; " +
		"docs/operations.md has the steps for a backup",
	"profile reload":        "read profiles.yaml again with systemctl reload drover, or kill -HUP of drover serve",
	"log-level":             "start the service with --log-level debug: DROVER_FLAGS in /etc/default/drover",
	"loglevel":              "start the service with --log-level debug: DROVER_FLAGS in /etc/default/drover",
	"alert":                 alertRules,
	"prometheus":            alertRules,
	"uninstall":             "run make uninstall in the source folder",
	"operation kill":        "use drover operation cancel ID",
	"snapshot tag":          "use drover snapshot create VOLUME NAME",
	"volume who-uses":       "use drover volume inspect NAME",
	"volume qos":            speedInProfile,
	"volume set-qos":        speedInProfile,
	"volume ls --reverse":   "use --sort -KEY",
	"volume ls -r":          "use --sort -KEY",
	"volume label --rm":     "use drover volume label NAME KEY-",
	"volume label --remove": "use drover volume label NAME KEY-",
	"volume label -d":       "use drover volume label NAME KEY-",
	"volume move --to-pool": stayInPool,
	"pool set --size":       growPool,
	"stats -f":              "use drover volume stats --watch",
	"volume stats -f":       "use drover volume stats --watch",
	"pool drain":            emptyPool,
	"pool evacuate":         emptyPool,
	"pool empty":            emptyPool,
	"pool cordon":           emptyPool,
	"pool scrub":            "use drover backend verify POOL",
	"pool check":            "use drover backend verify POOL for the storage, or drover doctor for the host",
	"pool fsck":             "use drover backend verify POOL for the storage, or drover doctor for the host",
	"pool import": "use drover pool adopt PATH for an existing pool, or drover " +
		"pool create NAME for a new one",
	"pool export": "use drover pool adopt PATH on the host that gets the disk",
	"pool grow":   growPool,

	"node add":         joinNode,
	"node create":      joinNode,
	"node join":        joinNode,
	"node update":      "use drover node cordon NAME, drover node drain NAME or drover node label NAME KEY=VALUE",
	"node evict":       "use drover node drain NAME",
	"node maintenance": maintenance,
	"maintenance":      maintenance,
	"node resume":      "use drover node uncordon NAME",

	"trash rm --force":      "the command asks for a confirmation, and --yes skips it",
	"trash purge --force":   "the command asks for a confirmation, and --yes skips it",
	"pool rm --force":       "only an empty pool is removed: delete its volumes first, see drover pool inspect NAME",
	"pool rm -f":            "only an empty pool is removed: delete its volumes first, see drover pool inspect NAME",
	"volume rm -f":          notForced,
	"volume move --pool":    stayInPool,
	"volume move -o":        stayInPool,
	"volume set-profile -p": "the profile is the second argument: drover volume set-profile NAME PROFILE",

	"volume set-profile --pool":    stayInPool,
	"volume set-profile -o":        stayInPool,
	"volume set-profile --profile": "the profile is the second argument: drover volume set-profile NAME PROFILE",
	"volume set-profile --size":    "use drover volume resize NAME SIZE",
	"volume resize --size":         "the size is the second argument: drover volume resize NAME SIZE",
	"volume resize -s":             "the size is the second argument: drover volume resize NAME SIZE",
	"volume resize -o":             "the size is the second argument: drover volume resize NAME SIZE",
	"volume create --placement":    placedByProfile,
	"volume create --replicas":     replicasInProfile,
	"volume create --encrypted":    "encryption belongs to a profile of a new volume, in profiles.yaml: encryption",
	"volume create --snapshot":     "use drover clone VOLUME@SNAPSHOT NEW",
	"volume rm -r":                 notForced,
	"volume create --dry-run":      "create has no dry run; it changes no existing volume",
	"clone --dry-run":              "clone has no dry run; it changes no existing volume",
	"clone --snapshot":             "name the snapshot after the volume: drover clone VOLUME@SNAPSHOT NEW",
	"clone --volume":               "name the snapshot after the volume: drover clone VOLUME@SNAPSHOT NEW",
	"clone --from":                 "the source is the first argument: drover clone SOURCE NEW",
	"snapshot inspect --format":    "use -o json, and jq for one field",
	"snapshot diff --files":        diffOfFiles,
	"snapshot diff --name-only":    diffOfFiles,
	"snapshot diff -r":             diffOfFiles,
	"trash restore --name":         "the new name is the second argument: drover trash restore DATASET NAME",
	"volume export --to":           "use drover volume export NAME -o FILE",
	"volume export --file":         "use drover volume export NAME -o FILE",
	"volume export -f":             "use drover volume export NAME -o FILE",
	"volume import --file":         "use drover volume import SPEC --from - < FILE",
	"volume import -f":             "use drover volume import SPEC --from - < FILE",
	"volume import --input":        "use drover volume import SPEC --from - < FILE",
	"volume import -i":             "use drover volume import SPEC --from - < FILE",
}

// readMetrics is the advice for a user who looks for the metrics.
const readMetrics = "use curl --unix-socket " + defaultSocket + " http://drover/metrics; for Prometheus, start the " +
	"service with --metrics-listen 127.0.0.1:9469"

// services is the advice for a user who looks for the services of a host.
const services = "systemctl status 'drover*' shows the services of this host, and drover status what they report"

// onlyVolumes is the advice for a user who looks for something that is a matter of the engine.
const onlyVolumes = "Drover only manages volumes: drover volume ls lists them, and docker has the rest"

// readFile is the advice for a user who wants to read a file of a volume.
const readFile = "use docker run --rm -v NAME:/data IMAGE cat /data/FILE, or drover volume export NAME | " +
	"tar -xO ./FILE"

// unlockVolume is the advice for a user who wants to unlock a volume.
const unlockVolume = "use drover volume unprotect NAME for a protected volume; an encrypted one is opened when a " +
	"container starts"

// configFiles is the advice for a user who wants to see or change the configuration.
const configFiles = "the configuration is /etc/drover/drover.yaml and profiles.yaml: edit them, check them with " +
	"drover config check, then systemctl restart drover"

// serviceLog is the advice for a user who looks for a log.
const serviceLog = "journalctl -u 'drover*' shows the log of the service (without systemd: the standard error of " +
	"drover serve), and drover events [VOLUME] what happened to volumes and nodes"

// noPrune is the advice for a user who wants to delete all unused volumes.
const noPrune = "Drover does not delete unused volumes: drover volume ls lists them, and " +
	"drover volume rm --dry-run NAME shows what a removal destroys"

// adoptProject is the advice for a user who wants to move a Compose project.
const adoptProject = "use drover adopt-project PROJECT to move a project of Docker Compose into volumes of Drover, " +
	"or " +
	"drover pool adopt PATH for a pool of another host"

// notForced is the advice for a user who wants to delete a volume by force.
const notForced = "a volume in use, or protected, is not deleted; drover volume inspect NAME shows why"

// changeVolume is the advice for a user who wants to change a setting of a volume.
const changeVolume = "use drover volume resize NAME SIZE, drover volume set-profile NAME PROFILE, or drover volume " +
	"label NAME KEY=VALUE"

// placedByProfile is the advice for a user who wants to choose the node of a new volume.
const placedByProfile = "use -o node=NODE; without it, the node where the command runs keeps the volume, if its " +
	"pools suit the profile"

// pruneByAge is the advice for a user who wants to delete old snapshots.
const pruneByAge = "use drover snapshot prune --dry-run VOLUME --older-than 3d"

// maintenance is the advice for a user who wants to work on a node.
const maintenance = "use drover node drain NAME, and later drover node uncordon NAME"

// replicasInProfile is the advice for a user who asks for replicas of one volume.
const replicasInProfile = "replicas belong to a profile, in profiles.yaml: use drover volume set-profile NAME PROFILE"

// encryptByProfile is the advice for a user who wants to encrypt a volume.
const encryptByProfile = "encryption belongs to a profile, in profiles.yaml: encryption; drover volume set-profile " +
	"--dry-run NAME PROFILE shows how an existing volume gets it, by a copy"

// diffOfFiles is the advice for a user who asks which files differ between two snapshots.
const diffOfFiles = "it counts bytes; to compare files, mount a writable copy: drover clone VOLUME@SNAPSHOT NEW"

// dropAlias is the advice for a user who wants to end the former name of a volume.
const dropAlias = "use drover volume rename --drop-alias ALIAS NAME"

// speedInProfile is the advice for a user who wants to limit the reads and writes of one volume.
const speedInProfile = "limits of speed belong to a profile: qos: {write_bps: 5MiB} in profiles.yaml, systemctl " +
	"reload drover, then drover volume set-profile NAME PROFILE"

// scheduleInProfile is the advice for a user who wants to change when snapshots are taken.
const scheduleInProfile = "a schedule belongs to a profile: change snapshots.schedule in profiles.yaml, systemctl " +
	"reload drover, then drover volume set-profile NAME PROFILE"

// alertRules is the advice for a user who looks for alerts.
const alertRules = "the alerts for Prometheus are in share/doc/drover/drover.rules.yaml, below the prefix of the " +
	"installation"

// growPool is the advice for a user who wants a larger pool.
const growPool = "a pool grows with its device or filesystem; drover pool set NAME --overcommit RATIO changes how " +
	"much may be promised"

// emptyPool is the advice for a user who wants no volumes in a pool.
const emptyPool = "a volume leaves its pool by drover volume move NAME NODE, or by a copy: drover volume export NAME " +
	"| drover volume import NEW@PROFILE -o pool=POOL --from -"

// joinNode is the advice for a user who wants to add a node.
const joinNode = "use drover node token --name NAME, and start drover agent --join @FILE on the new host"

// stayInPool is the advice for a user who wants to move a volume to another pool.
const stayInPool = "a volume stays in its pool; for a full copy in another: drover volume export NAME | drover " +
	"volume import NEW@PROFILE -o pool=POOL --from -"

// Advice returns a copy of the table of advice, for its test.
func Advice() map[string]string {
	all := make(map[string]string, len(advice)+len(foreignAdvice)+len(backupAdvice))
	maps.Copy(all, advice)
	maps.Copy(all, foreignAdvice)
	maps.Copy(all, backupAdvice)
	return all
}

// advise returns the advice about a word or flag after cmd, or "".
func advise(cmd *cobra.Command, word string) string {
	if cmd.HasParent() {
		word = CommandName(cmd) + " " + word
	}
	word = strings.ToLower(word)
	text := orElse(advice[word], orElse(foreignAdvice[word], backupAdvice[word]))
	if text == readMetrics {
		quoted := strings.TrimSpace(shellLine([]string{"", socketOf(cmd.Root())}))
		return strings.Replace(text, defaultSocket, quoted, 1)
	}
	return text
}

// isOfKubectl reports whether a word after get or describe names a kind of kubectl that Drover does not have. It must
// be a plural, because a singular may be the name of a volume.
func isOfKubectl(word string) bool {
	return advice[strings.ToLower(word)] == onlyVolumes && strings.HasSuffix(word, "s")
}

// copyAdvice returns how files are copied if one of the arguments of clone is a path, as in cp db:/file FILE. If none
// is, it returns "".
func copyAdvice(args []string) string {
	for _, arg := range args {
		if strings.ContainsAny(arg, ":/") {
			return "clone copies a whole volume; for files, use docker cp CONTAINER:/PATH FILE with a container of " +
				"the volume, or drover volume export NAME -o FILE"
		}
	}
	return ""
}

// RefusePaths fails with a usage error if one of the arguments of clone is a path. The error says how files are copied.
func RefusePaths(cmd *cobra.Command, args []string) error {
	if text := copyAdvice(args); text != "" {
		return UsageError(cmd, "%s", text)
	}
	return nil
}

// argumentAdvice returns what to type instead of a command with a wrong number of arguments, or "".
func argumentAdvice(cmd *cobra.Command, args []string) string {
	use := func(words ...string) string {
		return "use: " + shellLine(append([]string{cmd.CommandPath()}, words...))
	}
	second := ""
	if len(args) > 1 {
		second = args[1]
	}
	at := len(args) > 0 && strings.Contains(args[0], "@")
	_, sizeErr := dataset.ParseSize(second)
	switch name := CommandName(cmd); {
	case name == "volume move" && len(args) < 2:
		return "to move a project of Docker Compose into volumes of Drover: drover adopt-project PROJECT"
	case name == "clone" && copyAdvice(args) != "":
		return copyAdvice(args)
	case name == "clone" && len(args) == 3 && (args[0] == "create" || args[0] == "volume" || args[0] == "snapshot"):
		return use(args[1:]...)
	case name == "clone" && len(args) == 3:
		return use(args[0]+"@"+args[1], args[2])
	case (name == "serve" || name == "agent" || name == "control" || name == "guard") && len(args) > 0:
		return "it starts a service; drover status shows the state of all"
	case (name == "operation watch" || name == "operation cancel" || name == "operation inspect") && len(args) == 0:
		return "drover operation ls lists them"
	case name == "volume create" && len(args) == 2 && sizeErr == nil:
		return use(args[0], "-o", "size="+second)
	case name == "volume create" && len(args) == 2 && strings.Contains(second, "="):
		return use(args[0], "-o", second)
	case name == "volume create" && len(args) == 2 && !at && dataset.CheckProfileName(second) == nil:
		return use(args[0] + "@" + second)
	case name == "pool create" && len(args) == 2 && strings.HasSuffix(second, ".img"):
		return use(args[0], "--backend", "loop", "--path", second, "--image", "SIZE")
	case name == "pool create" && len(args) == 2:
		return use(args[0], "--backend", "loop", "--path", second)
	case name == "volume import" && len(args) == 2 && strings.Contains(args[0], "/"):
		return use(second, "--from", args[0])
	case name == "volume import" && len(args) == 2:
		return use(args[0], "--from", second)
	case name == "volume export" && len(args) == 2:
		return use(args[0], "-o", second)
	case strings.HasSuffix(name, " ls") && len(args) == 1 && cmd.Parent().HasSubCommands():
		if inspect, _, err := cmd.Parent().Find([]string{"inspect"}); err == nil && inspect != cmd.Parent() {
			return "use: " + shellLine([]string{inspect.CommandPath(), args[0]})
		}
	}
	return ""
}

// shellLine joins words, and quotes those that a shell would change.
func shellLine(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = dataset.Clip(w)
		if i > 0 && (w == "" || strings.ContainsAny(w, " \t\n'\"$&|;<>()*?[]#~`\\!{}")) {
			out[i] = "'" + strings.ReplaceAll(dataset.Clip(w), "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
