// Package composefile changes the volumes of Compose files in their text. Package projects calls it for drover
// adopt-project. It changes only the characters of the values that must change: comments, order, quotes, indentation
// and line ends of all other lines stay. It never writes a document from its parsed form. The package opens no file and
// keeps no state.
//
// # What protects a file
//
// A value is found by the position that the YAML parser reports. The text at that position must then read as the
// value, or Edit fails and names the line. Edit does not know how Compose merges files, services and extensions:
// package projects compares what `docker compose config` makes of the files before and after.
//
// # Where to change what
//
// File document.go has a parsed file and the positions of its values, mounts.go the mounts of services, and volumes.go
// the keys below the top-level key volumes. To support another notation of a mount, add a case to mountEditor.entry. To
// support another notation of a volume, add a case to document.redefine.
package composefile

import (
	"fmt"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// File is a Compose file.
type File struct {
	Path string
	Text []byte
}

// Change gives a volume of a project another name. The volume becomes external: Compose neither creates nor removes
// it. In every file that defines the volume, its driver, its options and its labels are removed, because Compose
// refuses them for an external volume.
type Change struct {
	Key  string // of the volume, below volumes
	Name string // of the volume for the engine, such as blog-db@gold
	// Dir is a directory of this host, or empty. If it is set, Key is a new volume, and every mount of Dir becomes a
	// mount of that volume.
	Dir string
	// NoCopy says that the directory is empty. Its mounts get the option nocopy: the engine would fill an empty volume
	// with the files that the image has at the target.
	NoCopy bool
}

// Resolve returns the absolute path that the source of a mount names, after its variables are replaced. bind says that
// the mount is of type bind, so that its source is a path in any case. Resolve returns "" if the source is the name of
// a volume, or cannot be resolved.
type Resolve func(source string, bind bool) string

// Edited is a file after its change.
type Edited struct {
	File
	Notes []Note // in the order of their lines; empty if the file is unchanged
}

// Note describes one change. It never repeats other values of the file, which can be secrets.
type Note struct {
	Line int    `json:"line"` // in the old file, from 1
	Text string `json:"text"`
}

// Edit applies changes to the files of a project. It fails with dataset.ErrInvalid, and names the file and the line, if
// a value cannot be changed safely. It also fails if no file defines the volume of a change or, for a change of a
// directory, if no file mounts the directory.
func Edit(files []File, changes []Change, resolve Resolve) ([]Edited, error) {
	found := map[string]bool{}
	out := make([]Edited, 0, len(files))
	for _, f := range files {
		d, err := parse(f)
		if err != nil {
			return nil, err
		}
		// Both kinds of changes can insert lines at the same place. The lines of existing volumes come first.
		for _, c := range slices.Concat(existing(changes), added(changes)) {
			did, err := d.change(c, resolve)
			if err != nil {
				return nil, err
			}
			found[c.Key] = found[c.Key] || did
		}
		out = append(out, d.apply())
	}
	for _, c := range changes {
		if !found[c.Key] {
			return nil, notFoundError(files, c)
		}
	}
	return out, nil
}

// existing returns the changes of volumes that the files define.
func existing(changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Dir != "" })
}

// added returns the changes of mounts of directories.
func added(changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Dir == "" })
}

func notFoundError(files []File, c Change) error {
	what := "volume " + c.Key
	if c.Dir != "" {
		what = "a mount of " + c.Dir
	}
	for _, f := range files {
		if line, from := Foreign(f); line > 0 {
			return dataset.Errorf(dataset.ErrInvalid, "%s:%d: %s may come from another file here (%s), which is not "+
				"edited: leave it out with --skip", f.Path, line, dataset.Clip(what), from)
		}
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s: %s is in none of the files of the project, so it cannot be edited "+
		"(leave it out with --skip)", files[0].Path, dataset.Clip(what))
}

// change applies one change to a document. It reports whether the document has the volume, or a mount of the directory.
func (d *document) change(c Change, resolve Resolve) (bool, error) {
	if c.Dir == "" {
		return d.redefine(c)
	}
	m := mountEditor{doc: d, change: c, resolve: resolve}
	if err := m.services(); err != nil || !m.found {
		return false, err
	}
	return true, d.define(c)
}

// Keys returns the keys below the top-level key volumes of a file.
func Keys(f File) ([]string, error) {
	d, err := parse(f)
	if err != nil {
		return nil, err
	}
	var keys []string
	if _, volumes := child(d.root, "volumes"); volumes != nil {
		for _, p := range pairs(value(volumes)) {
			keys = append(keys, p.key.Value)
		}
	}
	return keys, nil
}

// Foreign returns the line of the first place where a file takes mounts from a file that is not edited: include, or a
// service that extends one of another file. It returns 0 if there is none.
func Foreign(f File) (line int, what string) {
	d, err := parse(f)
	if err != nil {
		return 0, ""
	}
	if key, _ := child(d.root, "include"); key != nil {
		return key.Line, "include"
	}
	_, services := child(d.root, "services")
	for _, p := range pairs(value(services)) {
		if key, extends := child(value(p.value), "extends"); key != nil {
			if _, file := child(value(extends), "file"); file != nil {
				return key.Line, "the service that " + p.key.Value + " extends"
			}
		}
	}
	return 0, ""
}

// errorAt returns an error about a line of a file.
func (d *document) errorAt(line int, format string, args ...any) error {
	return dataset.Errorf(dataset.ErrInvalid, "%s:%d: %s", d.path, line, fmt.Sprintf(format, args...))
}
