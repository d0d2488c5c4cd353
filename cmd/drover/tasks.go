package main

import (
	"fmt"
	"io"
	"strings"
)

// A task is something that an operator wants to do, and the command that does it. Words in capitals stand for names.
type task struct{ want, command string }

// A taskGroup is a heading of the list of tasks.
type taskGroup struct {
	heading string
	tasks   []task
}

// taskGroups is the list of tasks. It is the source of drover help tasks and of docs/tasks.md.
var taskGroups = []taskGroup{
	{"Volumes", []task{
		{"create a volume", "drover volume create NAME@PROFILE"},
		{"create a volume of a given size", "drover volume create NAME@PROFILE -o size=50GiB"},
		{"list the volumes and how full they are", "drover volume ls"},
		{"list the volumes that are full or nearly so", "drover volume ls --filter 'status=*full*'"},
		{"list the volumes of a node", "drover volume ls --filter node=NODE"},
		{"list the volumes that nothing uses", "drover volume ls --filter status=idle"},
		{"see all about a volume, and who uses it", "drover volume inspect NAME"},
		{"see how fast volumes read and write", "drover volume stats --watch"},
		{"make a volume larger", "drover volume resize NAME +10GiB"},
		{"give a volume another name", "drover volume rename NAME NEW"},
		{"end the former name of a volume", "drover volume rename --drop-alias ALIAS NAME"},
		{"set or remove a label", "drover volume label NAME KEY=VALUE KEY-"},
		{"change replicas or limits", "drover volume set-profile --dry-run NAME PROFILE"},
		{"change filesystem or encryption", "drover volume export NAME | drover volume import NEW@PROFILE --from -"},
		{"move a volume to another node", "drover volume move NAME NODE"},
		{"protect a volume from deletion", "drover volume protect NAME"},
		{"end the protection of a volume", "drover volume unprotect NAME"},
		{"delete a volume", "drover volume rm --dry-run NAME"},
		{"get a deleted volume back", "drover trash restore NAME"},
		{"list the deleted volumes", "drover trash ls"},
		{"destroy a deleted volume for good", "drover trash purge --dry-run NAME"},
		{"import a folder", "drover volume import NAME@PROFILE --from /srv/data"},
		{"import a volume of Docker's driver local", "drover volume import NAME@PROFILE --from docker:VOLUME"},
		{"see how a Compose project would move to Drover", "drover adopt-project PROJECT --profile gold --dry-run"},
		{"move a Compose project to Drover", "drover adopt-project PROJECT --profile gold"},
		{"go back after the move of a project", "drover adopt-project PROJECT --undo"},
		{"keep the move of a project", "drover adopt-project PROJECT --confirm"},
		{"export a volume to a tar archive", "drover volume export NAME -o FILE.tar"},
		{"replace the key of an encrypted volume", "drover volume rekey NAME"},
	}},
	{"Profiles", []task{
		{"list the profiles", "drover profile ls"},
		{"see what a profile promises", "drover profile show NAME"},
		{"check a changed file of profiles", "drover profile check FILE"},
		{"check both files of the configuration", "drover config check"},
		{"apply a changed file of profiles", "systemctl reload drover"},
		{"update a volume to its changed profile", "drover volume set-profile NAME PROFILE"},
	}},
	{"Snapshots", []task{
		{"take a snapshot", "drover snapshot create VOLUME NAME"},
		{"take snapshots of several volumes", "drover snapshot create VOLUME VOLUME --name NAME"},
		{"list the snapshots of a volume", "drover snapshot ls VOLUME"},
		{"see how much space a snapshot uses", "drover snapshot ls VOLUME --size"},
		{"see how much changed since a snapshot", "drover snapshot diff VOLUME SNAPSHOT"},
		{"restore a volume to a snapshot", "drover snapshot restore VOLUME SNAPSHOT"},
		{"read files of a snapshot", "drover clone VOLUME@SNAPSHOT NEW"},
		{"export a snapshot to a tar archive", "drover volume export VOLUME --snapshot NAME -o FILE.tar"},
		{"delete old snapshots", "drover snapshot prune --dry-run VOLUME --older-than 30d"},
		{"delete a snapshot", "drover snapshot rm --dry-run VOLUME SNAPSHOT"},
		{"change when snapshots are taken", "drover volume set-profile VOLUME PROFILE"},
	}},
	{"Clones", []task{
		{"copy a volume for a test", "drover clone VOLUME NEW"},
		{"copy an older state of a volume", "drover clone VOLUME@SNAPSHOT NEW"},
		{"copy a volume into another pool",
			"drover volume export NAME | drover volume import NEW -o pool=fast --from -"},
	}},
	{"Backups", []task{
		{"add a repository for backups", "drover repository add NAME URL --password file:FILE"},
		{"list the repositories", "drover repository ls"},
		{"back up a volume now", "drover backup create VOLUME"},
		{"list the backups of a volume", "drover backup ls VOLUME"},
		{"create a volume from a backup", "drover backup restore BACKUP NEW"},
		{"see what a repository can bring back", "drover recover --from NAME"},
		{"bring all volumes back on an empty machine", "drover recover --from NAME --all"},
		{"remove a backup", "drover backup rm --dry-run BACKUP"},
		{"free the space of removed backups", "drover backup prune --repository NAME"},
		{"check a repository and its data", "drover repository check NAME --read-data 100"},
	}},
	{"Push and pull", []task{
		{"add a repository to push volumes to", "drover repository add NAME URL --password file:FILE"},
		{"push a volume to a repository", "drover push VOLUME REPOSITORY"},
		{"see which versions a repository has, and who pushed them", "drover repository versions NAME"},
		{"create a volume from the newest version", "drover pull REPOSITORY/NAME"},
		{"create a volume from another version", "drover pull REPOSITORY/NAME@VERSION NEW"},
	}},
	{"Nodes", []task{
		{"list the nodes", "drover node ls"},
		{"add a node to the cluster", "drover node token --name NODE --out FILE"},
		{"place nothing new on a node", "drover node cordon NODE"},
		{"move everything off a node", "drover node drain NODE"},
		{"end a cordon or a drain", "drover node uncordon NODE"},
		{"set a label for placement", "drover node label NODE KEY=VALUE"},
		{"confirm that a lost node is off", "drover node fence NODE"},
		{"list the replicas of all volumes and their age", "drover replica ls"},
		{"see what a lost node costs", "drover node drain NODE --fenced --dry-run"},
		{"remove a node for good", "drover node rm --dry-run NODE"},
		{"read data that only a lost node had", "drover volume superseded mount NAME NODE"},
	}},
	{"Pools", []task{
		{"list the pools and their free space", "drover pool ls"},
		{"see what fills the pools", "drover df"},
		{"see what a pool can do", "drover pool inspect POOL"},
		{"create a pool in a folder", "drover pool create NAME --backend loop --path /mnt/data"},
		{"create a pool on an empty disk", "drover pool create NAME --backend loop --device /dev/DISK"},
		{"create a pool in an image file", "drover pool create NAME --backend loop --path FILE --image 200GiB"},
		{"limit how much a pool promises", "drover pool set POOL --overcommit 1.5"},
		{"use a pool of another host", "drover pool adopt PATH"},
		{"test a pool and its speed", "drover backend verify POOL"},
		{"remove an empty pool", "drover pool rm --dry-run NAME"},
	}},
	{"Store", []task{
		{"back up the store of a single host", "drover store backup FILE"},
		{"fetch the records from a repository", "drover store fetch --from URL --password file:FILE"},
		{"back up the store of a cluster", "consul snapshot save FILE"},
		{"recover the store of a cluster", "drover store recover --dry-run"},
		{"rebuild lost records from the pools", "drover store rebuild --dry-run"},
		{"move the records to another store", "drover store export FILE"},
	}},
	{"Certificates", []task{
		{"create the authority of a cluster", "drover ca init --dir DIR"},
		{"give a person access", "drover ca issue NAME --role operator --out DIR"},
		{"end the access of a person", "drover ca revoke NAME"},
		{"see who has certificates, and which are revoked", "drover ca ls"},
		{"replace the key of the authority", "drover ca rotate"},
		{"see which certificates of nodes expire soon", "drover status"},
	}},
	{"Trouble", []task{
		{"see what needs attention", "drover status"},
		{"check the host, with what works", "drover doctor --verbose"},
		{"check all hosts", "drover doctor --cluster"},
		{"see what happened to a volume", "drover events VOLUME --since 2h"},
		{"watch what happens", "drover events --follow"},
		{"see what runs, and what failed", "drover operation ls"},
		{"list only what failed, also backups", "drover operation ls --filter state=failed"},
		{"see why an operation failed", "drover operation inspect ID"},
		{"stop an operation", "drover operation cancel ID"},
		{"see who keeps a volume in use", "drover volume inspect NAME"},
		{"accept a disk that was rolled back", "drover pool accept POOL --dry-run"},
		{"collect what support needs in one file", "drover support-bundle"},
		{"see the versions", "drover version"},
	}},
}

// Widths of drover help tasks: that of the screen, and the column of the commands.
const (
	taskWidth  = 80
	taskColumn = 44
)

// writeTasks prints the list of tasks for a terminal. A command that does not fit beside its task follows below it.
func writeTasks(w io.Writer) error {
	var b strings.Builder
	b.WriteString("I want to ... (words in capitals stand for names; to act, leave out --dry-run)\n")
	for _, g := range taskGroups {
		fmt.Fprintf(&b, "\n%s\n", g.heading)
		for _, t := range g.tasks {
			if want := "  " + t.want; len(want) < taskColumn && taskColumn+len(t.command) <= taskWidth {
				fmt.Fprintf(&b, "%-*s%s\n", taskColumn, want, t.command)
				continue
			}
			fmt.Fprintf(&b, "  %s\n      %s\n", t.want, t.command)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tasksPage returns the content of docs/tasks.md. Only the test of that page calls it.
func tasksPage() string {
	var b strings.Builder
	b.WriteString(`# Tasks and their commands

This page has the command for each task of an operator. It is generated from the list of drover help tasks. Words in
capitals stand for names. Commands that destroy or replace data are shown with --dry-run, which only shows the effect:
leave it out to act. [cli.md](cli.md) describes each command with its flags.
`)
	for _, g := range taskGroups {
		fmt.Fprintf(&b, "\n## %s\n\n| I want to … | command |\n|---|---|\n", g.heading)
		for _, t := range g.tasks {
			fmt.Fprintf(&b, "| %s | `%s` |\n", t.want, strings.ReplaceAll(t.command, "|", `\|`))
		}
	}
	return b.String()
}
