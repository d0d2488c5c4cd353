package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// HolderKind says how a holder uses a dataset.
type HolderKind string

// The kinds of holders.
const (
	HolderContainer HolderKind = "container" // a container has the dataset mounted or a file of it open
	HolderProcess   HolderKind = "process"   // a process outside of containers has a file of it open
	HolderMount     HolderKind = "mount"     // it is mounted a second time, on the host or in another mount namespace
	HolderDevice    HolderKind = "device"    // a loop device, or a device on it, uses a file of it
)

// Holder is one user of a dataset on a node: a container, a process, a further mount, or a device.
type Holder struct {
	Kind    HolderKind `json:"kind"`              // how it uses the dataset
	PID     int        `json:"pid,omitempty"`     // one process of the holder; absent: it has none
	Command string     `json:"command,omitempty"` // name of that process, as the kernel shows it
	User    string     `json:"user,omitempty"`    // user of that process on the node, or the user ID if it has no name
	// inode of the mount namespace in which the dataset is mounted; absent: that of the node, or not known
	MountNamespace uint64 `json:"mount_namespace,omitempty"`
	// mount point in that namespace, or path of the open file below the root of the dataset; absent: not known
	Path      string `json:"path,omitempty"`
	Container string `json:"container,omitempty"` // full ID of the container, from the control group of the process
	Engine    string `json:"engine,omitempty"`    // engine of the container: docker or podman; absent: not known
	Device    string `json:"device,omitempty"`    // the loop device, or a device that is built on one
}

// MaxHolders is how many holders a list has at most.
const MaxHolders = 10

// Holders are the users of a dataset on one node at one moment. An empty list means that nobody uses the dataset only
// if Unexamined is empty too. It is not safe for concurrent use.
type Holders struct {
	Node  string   `json:"node"`  // name of the node that was examined
	List  []Holder `json:"list"`  // the holders, at most 10
	Total int      `json:"total"` // number of all holders
	// what could not be examined, at most 10 lines; something there may use the dataset
	Unexamined []string `json:"unexamined,omitempty"`
}

// Add adds a holder. A container is listed once, however many of its processes use the dataset. The list keeps the
// first MaxHolders holders, and Total counts all.
func (l *Holders) Add(h Holder) {
	h.Command, h.User, h.Device = clipText(h.Command), clipText(h.User), clipText(h.Device)
	if len(h.Path) > maxClip || printable(h.Path) != h.Path { // a command with a changed path would act on another file
		h.Path = ""
	}
	for i, known := range l.List {
		if h.Container != "" && known.Container == h.Container {
			if known.Path == "" {
				l.List[i].Path = h.Path
			}
			return
		}
	}
	l.Total++
	if len(l.List) < MaxHolders {
		l.List = append(l.List, h)
	}
}

// AddUnexamined adds a line about something that could not be examined. It drops lines after the first MaxHolders.
func (l *Holders) AddUnexamined(line string) {
	if len(l.Unexamined) < MaxHolders {
		l.Unexamined = append(l.Unexamined, clipText(strings.ReplaceAll(line, "\n", "; ")))
	}
}

// clipText truncates a text as Clip does, and replaces characters that are not printable. A process chooses its name,
// and an engine shows the text on a terminal.
func clipText(s string) string { return Clip(printable(s)) }

// printable replaces each character that is not printable by a question mark.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// IsEmpty reports whether the examination was complete and found no holder.
func (l *Holders) IsEmpty() bool { return l.Total == 0 && len(l.Unexamined) == 0 }

// IsBounded reports whether a list that another process made is as short as Add and AddUnexamined keep it. It is true
// for nil.
func (l *Holders) IsBounded() bool {
	if l == nil {
		return true
	}
	short := len(l.List) <= MaxHolders && len(l.Unexamined) <= MaxHolders && len(l.Node) <= MaxLine
	for _, h := range l.List {
		for _, s := range []string{string(h.Kind), h.Command, h.User, h.Path, h.Container, h.Engine, h.Device} {
			short = short && len(s) <= maxClip
		}
	}
	for _, line := range l.Unexamined {
		short = short && len(line) <= maxClip
	}
	return short
}

// ShortContainerID is how many characters of a container ID messages show, as docker ps does.
const ShortContainerID = 12

// ShortContainer returns the beginning of the container ID.
func (h Holder) ShortContainer() string { return h.Container[:min(len(h.Container), ShortContainerID)] }

// String returns a clause that names the holder, without the name of its container.
func (h Holder) String() string { return h.Describe("") }

// Describe returns a clause that names the holder. name is the name of its container, or "" if it is not known.
func (h Holder) Describe(name string) string {
	process := fmt.Sprintf("process %d (%s, %s)", h.PID, h.Command, h.User)
	at := ""
	if h.Path != "" {
		at = " at " + h.Path
	}
	switch h.Kind {
	case HolderContainer:
		who := strings.TrimSpace(h.Engine + " container " + h.ShortContainer())
		if name != "" {
			who = strings.TrimSpace(h.Engine+" container "+name) + " (" + h.ShortContainer() + ")"
		}
		return who + at + ": " + process
	case HolderProcess:
		if h.Path == "" {
			return process + " has a file open, whose path cannot be shown"
		}
		if h.Path == "." {
			return process + " works in the top folder of the volume, or has it open"
		}
		return process + " has " + h.Path + " open"
	case HolderDevice:
		if h.Path == "" {
			return h.Device + " is attached to a file of it"
		}
		return h.Device + " is attached to " + h.Path
	case HolderMount:
	}
	if h.PID == 0 {
		return "a mount of the host" + at
	}
	if h.MountNamespace == 0 {
		return "a mount" + at + " in the unknown mount namespace of " + process
	}
	return fmt.Sprintf("a mount%s in mount namespace %d of %s", at, h.MountNamespace, process)
}

// HowToFree returns what ends the use of the dataset by the holder. name is the name of its container, or "" if it is
// not known. No remedy destroys data.
func (h Holder) HowToFree(name string) string {
	switch {
	case h.Kind == HolderContainer && h.Engine != "":
		name = cmp.Or(name, h.ShortContainer())
		return h.Engine + " stop " + name
	case h.Kind == HolderContainer:
		return "stop the container"
	case h.Kind == HolderProcess:
		return fmt.Sprintf("end process %d", h.PID)
	case h.Kind == HolderDevice:
		if name, mapped := strings.CutPrefix(h.Device, "/dev/mapper/"); mapped {
			return "dmsetup remove " + ShellQuote(name)
		}
		if strings.HasPrefix(h.Device, "/dev/md") {
			return "mdadm --stop " + h.Device
		}
		if strings.HasPrefix(h.Device, "/dev/loop") {
			return "losetup -d " + h.Device
		}
		return "stop " + h.Device
	case h.Path == "":
		return fmt.Sprintf("end process %d", h.PID)
	case h.PID == 0:
		return "umount " + ShellQuote(h.Path)
	}
	// umount -N runs the program of the host. With nsenter -m, the program would come from the holder's namespace.
	return fmt.Sprintf("umount -N %d %s", h.PID, ShellQuote(h.Path))
}

// ShellQuote quotes a path for a shell if it has characters that a shell interprets.
func ShellQuote(path string) string {
	for _, r := range path {
		isAlphanumeric := r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
		if !isAlphanumeric && !strings.ContainsRune("/._-@:+,=%", r) {
			return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
		}
	}
	return path
}

// inSummary is how many holders a summary names.
const inSummary = 3

// Summary returns one line that names the first holders and what frees them, without the names of containers. It
// returns "" if the list is empty.
func (l *Holders) Summary() string {
	var words []string
	for _, h := range l.List[:min(len(l.List), inSummary)] {
		words = append(words, h.String()+" (to free it: "+h.HowToFree("")+")")
	}
	if more := l.Total - len(words); more > 0 {
		words = append(words, fmt.Sprintf("%d further holders", more))
	}
	for _, line := range l.Unexamined[:min(len(l.Unexamined), 1)] {
		words = append(words, "not examined, and may use it: "+line)
	}
	return strings.Join(words, "; ")
}

// heldError is an error about a dataset in use, with its holders.
type heldError struct {
	error
	holders Holders
}

func (e *heldError) Unwrap() error { return e.error }

// WithHolders adds the holders of a dataset to an error. The kind and the text of the error stay the same.
func WithHolders(err error, holders Holders) error { return &heldError{err, holders} }

// HoldersOf returns the holders that WithHolders added to an error, or nil if there are none.
func HoldersOf(err error) *Holders {
	var held *heldError
	if !errors.As(err, &held) {
		return nil
	}
	return &held.holders
}
