package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// The known reasons for which zfs(8) fails; test with errors.Is. Every other error is an unknown failure. It must never
// be treated as an absent filesystem.
var (
	errAbsent     = errors.New("zfs does not have it")
	errTaken      = errors.New("it exists already")
	errHeld       = errors.New("others depend on it")
	errBusy       = errors.New("it is busy")
	errNoProperty = errors.New("this zfs does not have such a property")
	errSpace      = errors.New("zfs lacks space for it")
	errStream     = errors.New("zfs does not accept it as a stream")

	errUnrelated = errors.New("it is not a snapshot of its origin")

	errWrongKey = errors.New("zfs was given another key")
	errLoaded   = errors.New("zfs has a key already")
)

// knownErrors maps the error messages of the programs to errors. The messages are in the C locale, from OpenZFS and
// zfs-fuse.
func knownErrors() map[string]error {
	return map[string]error{
		"dataset does not exist":         errAbsent,
		"snapshot does not exist":        errAbsent,
		"could not find any snapshots":   errAbsent,
		"already exists":                 errTaken,
		"has dependent clones":           errHeld,
		"has children":                   errHeld,
		"is busy":                        errBusy,
		"already mounted":                errBusy, // by a mount whose unmount zfs-fuse has not noticed yet
		"invalid property":               errNoProperty,
		"must be one of":                 errNoProperty,
		"out of space":                   errSpace,
		"size is less than current used": errSpace,
		"No space left":                  errSpace,
		"quota exceeded":                 errSpace,
		"not an earlier snapshot":        errUnrelated,
		"must be in same filesystem":     errUnrelated,
		"invalid backup stream":          errStream,
		"checksum mismatch":              errStream,
		"Incorrect key provided":         errWrongKey,
		"Key already loaded":             errLoaded,
		"Key already unloaded":           errAbsent,
	}
}

// limit bounds one command. A zfs command waits for a transaction group, which takes seconds on a slow disk. On a
// suspended pool it waits for ever.
const limit = 50 * time.Second

// A command on a busy dataset is repeated, for two reasons. Another process may have a copy of the mount table for a
// moment (see mount.Unmount). And zfs-fuse notices an unmount a little later than the kernel.
const (
	busyTries = 20
	busyPause = 100 * time.Millisecond
)

// tool runs zfs(8). It uses only features that both OpenZFS and zfs-fuse with pool version 23 have, so it does not test
// for features.
type tool struct{ runner run.Runner }

// zfs runs one command.
func (t tool) zfs(ctx context.Context, args ...string) error {
	_, err := t.runner.Run(ctx, run.Command{Name: program, Args: args, Timeout: limit})
	return classify(err)
}

// classify adds the error of knownErrors whose message the program wrote. It returns all other errors unchanged.
func classify(err error) error {
	var failed *run.Error
	if !errors.As(err, &failed) || failed.ExitCode < 0 {
		return err
	}
	for text, kind := range knownErrors() {
		if strings.Contains(failed.Stderr, text) {
			return fmt.Errorf("%w: %w", kind, err)
		}
	}
	return err
}

// retryBusy runs a command, and repeats it while the dataset is busy.
func (t tool) retryBusy(ctx context.Context, args ...string) error {
	err := t.zfs(ctx, args...)
	for range busyTries {
		if !errors.Is(err, errBusy) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(busyPause):
		}
		err = t.zfs(ctx, args...)
	}
	return err
}

// object is a filesystem or snapshot.
type object struct {
	name       string
	kind       string // filesystem, snapshot, or a kind that Drover never makes
	origin     string // the snapshot that it is a clone of
	refquota   dataset.Size
	referenced dataset.Size
}

const (
	kindFilesystem = "filesystem"
	kindSnapshot   = "snapshot"
)

func (o object) snapshotOf() (fs, name string) {
	fs, name, _ = strings.Cut(o.name, "@")
	return fs, name
}

// object returns the object with a name, or errAbsent if there is none.
func (t tool) object(ctx context.Context, name string) (object, error) {
	found, err := t.get(ctx, name)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("zfs reported %d objects when asked for %s", len(found), name)
	}
	if err != nil {
		return object{}, err
	}
	return found[0], nil
}

// below returns a filesystem, all filesystems below it, and all their snapshots, in the order of zfs(8). That order
// lists the snapshots of a filesystem as they were created.
func (t tool) below(ctx context.Context, name string) ([]object, error) {
	return t.get(ctx, "-r", name)
}

func (t tool) get(ctx context.Context, args ...string) ([]object, error) {
	last := len(args) - 1
	all := append([]string{"get", "-Hp"}, args[:last]...)
	all = append(all, "-o", "name,property,value", "type,origin,refquota,referenced", args[last])
	var out bytes.Buffer
	_, err := t.runner.Run(ctx, run.Command{Name: program, Args: all, Timeout: limit, Stdout: &out})
	if err != nil {
		return nil, classify(err)
	}
	return parse(out.String())
}

// parse reads lines of name, property and value.
func parse(text string) ([]object, error) {
	var found []object
	at := map[string]int{}
	for line := range strings.Lines(text) {
		field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(field) != 3 {
			return nil, fmt.Errorf("zfs wrote %q: expected a name, a property and a value", line)
		}
		i, known := at[field[0]]
		if !known {
			i = len(found)
			at[field[0]] = i
			found = append(found, object{name: field[0]})
		}
		if err := found[i].set(field[1], field[2]); err != nil {
			return nil, fmt.Errorf("zfs wrote %q: %w", line, err)
		}
	}
	return found, nil
}

func (o *object) set(property, value string) error {
	if value == "-" || value == "none" {
		return nil // zfs prints "-" if the object has no such property
	}
	var err error
	switch property {
	case "type":
		o.kind = value
	case "origin":
		o.origin = value
	case "refquota":
		o.refquota, err = bytesOf(value)
	case "referenced":
		o.referenced, err = bytesOf(value)
	}
	return err
}

func bytesOf(text string) (dataset.Size, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("a negative size")
	}
	return dataset.Size(n), err
}

// value returns a property of a filesystem or snapshot, or "-" if it has none. property can name several properties,
// separated by commas. The result then has a line for each.
func (t tool) value(ctx context.Context, property, name string) (string, error) {
	res, err := t.runner.Run(ctx, run.Command{
		Name:    program,
		Args:    []string{"get", "-Hp", "-o", "value", property, name},
		Timeout: limit,
	})
	return strings.TrimSuffix(string(res.Stdout), "\n"), classify(err)
}
