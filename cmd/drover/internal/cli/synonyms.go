package cli

// synonyms maps words that are accepted for a command to that command, without the program's name. They are the words
// of docker, kubectl, zfs, restic and systemctl, and those of newcomers in trials. A key is one word, which is accepted
// at the root and below a noun that has the command, or a whole command. The values can have flags. A value without a
// noun, such as rm, is a command of the noun that the person typed. A word is accepted only if its meaning is clear and
// nothing is lost, or if the command asks first as usual. All other words that people type are in otherWords. Help, man
// pages and completions do not list synonyms.
var synonyms = map[string]string{
	"grow": "volume resize --grow", "extend": "volume resize --grow", "expand": "volume resize --grow",
	"enlarge": "volume resize --grow",
	"info":    "inspect", "describe": "inspect", "get": "inspect", "stat": "inspect", "status": "inspect",
	"explain": "inspect",
	"users":   "volume inspect", "who": "volume inspect", "lsof": "volume inspect", "fuser": "volume inspect",
	"where": "volume inspect", "path": "volume inspect", "mountpoint": "volume inspect", "usedby": "volume inspect",
	"holders": "volume inspect", "replicas": "replica ls",
	"new": "create", "add": "create", "make": "create", "mk": "create", "take": "snapshot create",
	"destroy": "rm", "drop": "rm", "del": "rm", "erase": "rm",
	"undelete": "trash restore", "untrash": "trash restore", "recycle": "trash ls", "deleted": "trash ls",
	"free": "df", "space": "df", "capacity": "pool ls", "disk": "df",
	"du": "volume ls", "usage": "volume ls", "ps": "inspect", "top": "volume stats", "iostat": "volume stats",
	"migrate": "volume move", "copy": "clone", "cp": "clone", "fork": "clone",
	"dump": "volume export", "save": "volume export", "load": "volume import",
	"lock":  "volume protect",
	"hosts": "node ls", "servers": "node ls", "members": "node ls", "cordon": "node cordon",
	"uncordon": "node uncordon", "tasks": "operation ls", "jobs": "operation ls", "queue": "operation ls",
	"wait": "operation watch", "watch": "operation watch", "diff": "snapshot diff",
	"history": "events", "monitor": "events",
	"health": "status", "check": "doctor", "fsck": "doctor", "diagnose": "doctor", "debug": "doctor",

	"support": "support-bundle", "bundle": "support-bundle", "report": "support-bundle", "diags": "support-bundle",
	"bugreport": "support-bundle", "sosreport": "support-bundle", "sos-report": "support-bundle",
	"support-dump": "support-bundle", "supportbundle": "support-bundle", "support bundle": "support-bundle",

	"volumes": "volume ls", "snapshots": "snapshot ls", "pools": "pool ls", "nodes": "node ls",
	"profiles": "profile ls", "operations": "operation ls", "ops": "operation ls", "vols": "volume ls",
	"backups": "backup ls", "snaps": "snapshot ls", "repositories": "repository ls", "repos": "repository ls",

	"repository create": "repository add", "repository new": "repository add", "repository init": "repository add",
	"backup make": "backup create", "backup new": "backup create", "backup add": "backup create",
	"volume backup": "backup create",
	"volume push":   "push", "volume pull": "pull", "versions": "repository versions",
	"repository make": "repository add", "repository verify": "repository check",

	"snapshot size": "snapshot ls --size", "snapshot sizes": "snapshot ls --size", "snapshot du": "snapshot ls --size",
	"snapshot usage": "snapshot ls --size", "snapshot space": "snapshot ls --size",
	"volume diff": "snapshot diff", "volume df": "volume ls", "pool df": "df",
	"volume du": "volume ls", "volume usage": "volume ls",
	"volume snapshots": "snapshot ls", "volume snaps": "snapshot ls", "volume clone": "clone", "volume copy": "clone",
	"volume cp": "clone", "volume fork": "clone", "snapshot clone": "clone", "volume history": "events",
	"volume events": "events", "volume undelete": "trash restore",
	"volume untrash": "trash restore", "volume trash": "trash ls", "volume deleted": "trash ls",
	"trash empty": "trash purge --all", "trash undelete": "trash restore", "trash untrash": "trash restore",
	"trash inspect": "trash ls", "trash show": "trash ls", "operation logs": "operation inspect",
	"pool usage": "pool ls", "pool iostat": "volume stats", "node top": "node ls",
	"system df": "df", "system info": "status", "system events": "events", "cluster status": "status",
	"get events": "events", "top nodes": "node ls", "top node": "node ls",
	"backup run": "backup create", "backup start": "backup create", "backup now": "backup create",
	"cluster-info": "status", "version --short": "--version", "version --client": "--version",
}

// foreignNouns maps nouns of kubectl to those of Drover. They are accepted after get and describe, which only read.
var foreignNouns = map[string]string{
	"pvc": "volume", "pvcs": "volume", "persistentvolumeclaim": "volume", "persistentvolumeclaims": "volume",
	"pv": "volume", "pvs": "volume", "persistentvolume": "volume", "persistentvolumes": "volume",
	"sc": "profile", "storageclass": "profile", "storageclasses": "profile",
	"volumesnapshot": "snapshot", "volumesnapshots": "snapshot",
}

// otherNouns maps nouns of other tools to those of Drover. They are accepted before a command of the noun, as in
// job ls, before the name of an item, which is inspected, and alone, which is a list.
var otherNouns = map[string]string{
	"job": "operation", "task": "operation", "host": "node", "server": "node", "member": "node",
}

// A flagSynonym is a flag of other tools that is accepted for a flag of a command. It is used if the command does not
// have the flag itself. A name that ends in = has a value, which is appended to the replacement.
type flagSynonym struct{ typed, accepted string }

// flagSynonyms are the accepted flags. If several have the typed flag, the first one whose replacement the command
// accepts is used. No synonym skips a confirmation, except those that say yes.
var flagSynonyms = []flagSynonym{
	{"--json", "--output=json"}, {"--yaml", "--output=yaml"}, {"--no-trunc", "--output=wide"},
	{"--wide", "--output=wide"}, {"-v", "--output=wide"}, {"--verbose", "--output=wide"},
	{"--names", "--output=name"}, {"--format=", "--output="}, {"--format=", "--output=template="},
	{"-f=", "--filter="}, {"-f=", "--output=template="}, {"--sort-by=", "--sort="}, {"--selector=", "--label="},
	{"-y", "--yes"}, {"--assume-yes", "--yes"}, {"-n", "--dry-run"},
	{"-d", "--detach"}, {"--async", "--detach"}, {"--no-wait", "--detach"}, {"--background", "--detach"},
	{"--lines=", "--tail="}, {"--limit=", "--tail="}, {"--newer-than=", "--since="},
	{"--older-than=", "--until="}, {"--since=", "--newer-than="}, {"--until=", "--older-than="},
	{"--keep-last=", "--keep="},
	{"--watch", "--follow"}, {"-w", "--follow"},
	{"-H=", "--api="}, {"--server=", "--api="}, {"--host=", "--api="}, {"--endpoint=", "--api="}, {"--url=", "--api="},
	{"-?", "--help"},
}

// omittedFlags are flags that are left out of the command line, because they ask for what the command does anyway. The
// second text is the name of a flag. A flag is left out only for the commands that have this flag: those with --detach
// wait without --wait, and those with --sort list everything without --all.
var omittedFlags = []flagSynonym{
	{"--wait", "detach"}, {"--yes", "detach"}, {"-y", "detach"}, {"--assume-yes", "detach"},
	{"--all", "sort"}, {"-a", "sort"}, {"-A", "sort"}, {"--all-namespaces", "sort"},
	{"--no-stream", "watch"},
}

// argumentFlags has, for each command, the flags whose value is accepted as the last argument of the command. The
// second text is put before the value: volume resize --by 5GiB means volume resize +5GiB.
var argumentFlags = map[string][]flagSynonym{
	"volume resize":      {{"--size", ""}, {"-s", ""}, {"--by", "+"}},
	"volume move":        {{"--to", ""}, {"--node", ""}, {"--target", ""}},
	"volume set-profile": {{"--profile", ""}, {"-p", ""}},
	"volume rename":      {{"--to", ""}, {"--name", ""}},
	"trash restore":      {{"--name", ""}, {"--as", ""}},
	"backend verify":     {{"--pool", ""}},
}

// argumentFilters has the lists that accept the name of one item, with the key of the filter that selects it.
var argumentFilters = map[string]string{
	"volume ls": "name", "pool ls": "name", "node ls": "name", "profile ls": "name", "trash ls": "volume",
	"operation ls": "volume",
}
