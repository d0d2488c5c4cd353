package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var containerID = strings.Repeat("0123456789abcdef", 4)

func TestHolderSaysWhoAndHowToFree(t *testing.T) {
	for name, c := range map[string]struct {
		holder           Holder
		name, says, free string
	}{
		"container": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: containerID, Engine: "docker"}, "web",
			"docker container web (0123456789ab) at /data: process 7 (sleep, root)", "docker stop web",
		},
		"container without a name": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: containerID, Engine: "podman"}, "",
			"podman container 0123456789ab at /data: process 7 (sleep, root)", "podman stop 0123456789ab",
		},
		"container of another engine": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Container: containerID}, "",
			"container 0123456789ab: process 7 (sleep, root)", "stop the container",
		},
		"open file": {
			Holder{Kind: HolderProcess, PID: 8, Command: "tail", User: "1234", Path: "log/a"}, "",
			"process 8 (tail, 1234) has log/a open", "end process 8",
		},
		"top folder": {
			Holder{Kind: HolderProcess, PID: 8, Command: "sleep", User: "root", Path: "."}, "",
			"process 8 (sleep, root) works in the top folder of the volume, or has it open", "end process 8",
		},
		"open file without a path": {
			Holder{Kind: HolderProcess, PID: 8, Command: "tail", User: "1234"}, "",
			"process 8 (tail, 1234) has a file open, whose path cannot be shown", "end process 8",
		},
		"mount namespace": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", MountNamespace: 4026531841, Path: "/mnt/it's here"}, "",
			"a mount at /mnt/it's here in mount namespace 4026531841 of process 9 (sh, root)",
			`umount -N 9 '/mnt/it'\''s here'`,
		},
		"hidden mount namespace": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", Path: "/mnt"}, "",
			"a mount at /mnt in the unknown mount namespace of process 9 (sh, root)", "umount -N 9 /mnt",
		},
		"mount without a path": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", MountNamespace: 5}, "",
			"a mount in mount namespace 5 of process 9 (sh, root)", "end process 9",
		},
		"host": {Holder{Kind: HolderMount, Path: "/srv"}, "", "a mount of the host at /srv", "umount /srv"},
		"device": {
			Holder{Kind: HolderDevice, Device: "/dev/loop3", Path: "disk.img"}, "",
			"/dev/loop3 is attached to disk.img", "losetup -d /dev/loop3",
		},
		"device-mapper": {
			Holder{Kind: HolderDevice, Device: "/dev/mapper/vg-a b", Path: "disk.img"}, "",
			"/dev/mapper/vg-a b is attached to disk.img", "dmsetup remove 'vg-a b'",
		},
		"RAID": {
			Holder{Kind: HolderDevice, Device: "/dev/md7"}, "",
			"/dev/md7 is attached to a file of it", "mdadm --stop /dev/md7",
		},
		"other device": {
			Holder{Kind: HolderDevice, Device: "/dev/bcache0"}, "",
			"/dev/bcache0 is attached to a file of it", "stop /dev/bcache0",
		},
	} {
		if got := c.holder.Describe(c.name); got != c.says {
			t.Errorf("%s: got %q, want %q", name, got, c.says)
		}
		if got := c.holder.HowToFree(c.name); got != c.free {
			t.Errorf("%s: got %q, want %q", name, got, c.free)
		}
	}
}

func TestHoldersAreBounded(t *testing.T) {
	var l Holders
	if !l.IsEmpty() {
		t.Error("an examination without a holder is not empty")
	}
	for i := range 2 * MaxHolders {
		l.Add(Holder{Kind: HolderProcess, PID: i + 1, Command: strings.Repeat("x", 300), Path: strings.Repeat("y", 300)})
		l.AddUnexamined(strings.Repeat("z", 300) + "\nz")
	}
	if len(l.List) != MaxHolders || l.Total != 2*MaxHolders || len(l.Unexamined) != MaxHolders || !l.IsBounded() {
		t.Errorf("%d of %d holders, %d lines, bounded %t", len(l.List), l.Total, len(l.Unexamined), l.IsBounded())
	}
	if l.List[0].Path != "" { // no command may name a part of a path
		t.Errorf("path %q", l.List[0].Path)
	}
	for name, long := range map[string]Holders{
		"list":  {List: make([]Holder, MaxHolders+1)},
		"lines": {Unexamined: make([]string, MaxHolders+1)},
		"line":  {Unexamined: []string{strings.Repeat("z", maxClip+1)}},
		"path":  {List: []Holder{{Path: strings.Repeat("z", maxClip+1)}}},
	} {
		if long.IsBounded() {
			t.Errorf("%s: too long, and accepted", name)
		}
	}
}

// TestHoldersAreSafeOnTerminal: a process chooses its name, and a container chooses the names of its files. Neither may
// reach the terminal with control characters.
func TestHoldersAreSafeOnTerminal(t *testing.T) {
	var l Holders
	l.Add(Holder{Kind: HolderProcess, PID: 7, Command: "a\x1b[2Jb", User: "root", Path: "log\n\x1b[31m"})
	l.AddUnexamined("process \x07")
	want := "process 7 (a?[2Jb, root) has a file open, whose path cannot be shown (to free it: end process 7); " +
		"not examined, and may use it: process ?"
	if got := l.Summary(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestContainerIsListedOnce(t *testing.T) {
	var l Holders
	l.Add(Holder{Kind: HolderContainer, PID: 1, Container: containerID})
	l.Add(Holder{Kind: HolderContainer, PID: 2, Container: containerID, Path: "/data"})
	l.Add(Holder{Kind: HolderProcess, PID: 3})
	if l.Total != 2 || l.List[0].PID != 1 || l.List[0].Path != "/data" {
		t.Errorf("%+v", l)
	}
}

// TestSummaryNamesFirstHolders: a summary names the first holders, and counts the others.
func TestSummaryNamesFirstHolders(t *testing.T) {
	var l Holders
	for pid := range 5 {
		l.Add(Holder{Kind: HolderProcess, PID: pid, Command: "sh", User: "root", Path: "a"})
	}
	l.AddUnexamined("process 9")
	l.AddUnexamined("process 10")
	want := "process 0 (sh, root) has a open (to free it: end process 0); " +
		"process 1 (sh, root) has a open (to free it: end process 1); " +
		"process 2 (sh, root) has a open (to free it: end process 2); " +
		"2 further holders; not examined, and may use it: process 9"
	if got := l.Summary(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := new(Holders).Summary(); got != "" {
		t.Errorf("no holders: %q", got)
	}
}

func TestUnexaminedIsNotEmpty(t *testing.T) {
	var l Holders
	if l.AddUnexamined("process 3 (x) cannot be examined"); l.IsEmpty() {
		t.Error("it counts as unused")
	}
}

func TestHoldersTravelWithError(t *testing.T) {
	want := Holders{Node: "host-a", List: []Holder{{Kind: HolderProcess, PID: 3}}, Total: 1}
	err := fmt.Errorf("rm: %w", WithHolders(Errorf(ErrInUse, "volume db is in use"), want))
	record, jsonErr := json.Marshal(ProblemOf(err))
	var read Problem
	if jsonErr = errors.Join(jsonErr, json.Unmarshal(record, &read)); jsonErr != nil {
		t.Fatal(jsonErr)
	}
	for _, err := range []error{err, read.Err()} {
		if got := HoldersOf(err); KindOf(err) != ErrInUse || got == nil || !reflect.DeepEqual(*got, want) ||
			err.Error() != "rm: volume db is in use" {
			t.Errorf("%v of kind %v with %+v", err, KindOf(err), got)
		}
	}
	if HoldersOf(errors.New("x")) != nil || HoldersOf(nil) != nil {
		t.Error("an error without holders has some")
	}
}
