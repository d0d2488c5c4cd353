package restic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
)

// Host is the host name of every backup. With the same name on every node, restic finds the earlier backups of a volume
// that moved to another node.
const Host = "drover"

// Backup is one backup in a repository. restic calls it a snapshot.
type Backup struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Parent string    `json:"parent"` // the ID of the backup that it was compared with; empty for none
	Tags   []string  `json:"tags"`
	Paths  []string  `json:"paths"`
}

// Request describes a backup for Repository.Backup.
type Request struct {
	// Dir is the folder that contains Names. The backup contains the names without the folder.
	Dir   string
	Names []string
	// Tags must not contain commas.
	Tags []string
	// Time is the moment of the content, with the precision of a second. If zero, it is the present.
	Time time.Time
	// Parent is the ID of an earlier backup. Files that have not changed since are not read. Backup fails with
	// ErrNotFound if the repository has no such backup, and with ErrCorrupt if its folders are damaged. If Parent is
	// empty, or if restic 0.14 cannot decrypt it, all files are read.
	Parent string
	// Progress, if not nil, is called about once a second. It must not block.
	Progress func(Progress)
}

// Progress is the state of a run of restic. Bytes and Files count what restic has read so far. TotalBytes and
// TotalFiles count what it has found so far, and grow while it still looks for files.
type Progress struct {
	Bytes      int64 `json:"bytes_done"`
	TotalBytes int64 `json:"total_bytes"`
	Files      int64 `json:"files_done"`
	TotalFiles int64 `json:"total_files"`
}

// Summary has the size of a backup, and how much data it added to the repository.
type Summary struct {
	Files      int64 `json:"total_files_processed"`
	Bytes      int64 `json:"total_bytes_processed"` // the size of the files
	BytesAdded int64 `json:"data_added"`            // before compression
}

// message is one line of the output of restic backup.
type message struct {
	Type       string `json:"message_type"`
	SnapshotID string `json:"snapshot_id"`
	Progress
	Summary
}

// Backup makes a backup. It fails if a file cannot be read. If restic has stored a backup nevertheless, or before ctx
// ended, the result has its ID, or the first 8 digits, also if Backup fails: the caller must remove it.
//
// restic 0.14 stores neither sockets nor the attributes of symbolic links. It does not record which FIFOs, devices and
// symbolic links are hard links of each other. It does not store the bytes of a symbolic link's target that are not
// UTF-8. It restores the holes of sparse files as zeros on the disk, which restic 0.15 and later do not.
func (r *Repository) Backup(ctx context.Context, req Request) (b Backup, s Summary, err error) {
	for _, name := range req.Names { // restic leaves out those that do not exist
		if _, err := os.Lstat(filepath.Join(req.Dir, name)); err != nil {
			return Backup{}, Summary{}, r.failed(err)
		}
	}
	began := clock.System{}.Now()
	id, s, err := r.backUp(ctx, req)
	if err == nil {
		b, err = r.made(ctx, id, req, began)
	}
	if err != nil {
		return Backup{ID: id}, Summary{}, err
	}
	return b, s, nil
}

// backUp runs restic backup. id has the first digits of the backup's ID. If it is not empty, restic has stored the
// backup, also if backUp fails.
func (r *Repository) backUp(ctx context.Context, req Request) (id string, s Summary, err error) {
	args := []string{"backup", "--json", "--host=" + Host}
	for _, tag := range req.Tags {
		args = append(args, "--tag="+tag)
	}
	if !req.Time.IsZero() {
		args = append(args, "--time="+req.Time.UTC().Format(time.DateTime))
	}
	if req.Parent != "" {
		if err := r.checkIDs(req.Parent); err != nil {
			return "", s, err
		}
		args = append(args, "--parent="+req.Parent)
	} else {
		// Otherwise restic looks for a parent in all backups, and fails if a single one of them is damaged.
		args = append(args, "--force")
	}
	out := &lines{each: func(line []byte) {
		var m message
		switch err := json.Unmarshal(line, &m); {
		case err != nil: // restic writes a few lines that are not JSON
		case m.Type == "summary":
			id, s = m.SnapshotID, m.Summary
		case m.Type == "status" && req.Progress != nil:
			req.Progress(m.Progress)
		}
	}}
	c := command{time: longTime, dir: req.Dir, stdout: out, idle: true, progress: true, paced: true}
	res, err := r.run(ctx, c, append(append(args, "--"), req.Names...)...)
	// restic leaves out an attribute that it cannot read, and exits with 0 (restic 0.14).
	if _, text, found := strings.Cut(string(res.Stderr), "can not obtain extended attribute "); err == nil && found {
		unread, _, _ := strings.Cut(text, "\n")
		err = r.errorf(dataset.ErrCorrupt, "a part of the files could not be read: attribute %s", shorten(unread))
	}
	return id, s, err
}

// made returns the backup that a request has made since began. The summary of restic 0.14 has only the first digits of
// its ID. If the cache does not have the others, or if the request has no time, made lists the backup. The list takes
// no lock: a prune that begins between the two runs must not make the backup fail.
func (r *Repository) made(ctx context.Context, id string, req Request, began time.Time) (Backup, error) {
	if id == "" {
		return Backup{}, r.errorf(dataset.ErrInternal, "restic made a backup without an ID")
	}
	if full := r.fullID(id, began); full != "" && !req.Time.IsZero() {
		b := Backup{ID: full, Time: req.Time.UTC().Truncate(time.Second), Parent: req.Parent, Tags: req.Tags}
		for _, name := range req.Names {
			b.Paths = append(b.Paths, filepath.Join(req.Dir, name))
		}
		return b, nil
	}
	list, err := r.list(ctx, "--no-lock", id)
	if err != nil {
		return Backup{}, err
	}
	if len(list) != 1 {
		return Backup{}, r.errorf(dataset.ErrCorrupt, "backup %s disappeared after it was made", id)
	}
	return list[0], nil
}

// Backups lists the backups that have all of the tags, oldest first. If one of them cannot be read, Backups returns the
// others and an error: ErrCorrupt if it is damaged.
//
// The list can contain an incomplete backup: one that lacks a file. A tag cannot mark the complete ones:
// restic tag needs the repository alone, and would fail while another node makes a backup. A caller that needs a
// complete backup must record the IDs that Backup returned.
//
// Backups takes no lock. So it does not prevent a removal, and it works while another run uses the repository alone.
func (r *Repository) Backups(ctx context.Context, tags ...string) ([]Backup, error) {
	args := []string{"--no-lock"}
	if len(tags) > 0 {
		args = append(args, "--tag="+strings.Join(tags, ","))
	}
	list, err := r.list(ctx, args...)
	if err != nil && saysAbsent(err.Error()) { // a backup was removed after restic had listed the names of all
		list, err = r.list(ctx, args...)
	}
	return list, err
}

func (r *Repository) list(ctx context.Context, args ...string) (list []Backup, err error) {
	c := command{time: longTime, strict: true}
	var items []json.RawMessage
	err = r.json(ctx, c, &items, append([]string{"snapshots"}, args...)...)
	for _, item := range items { // a malformed one must not hide the others
		var b Backup
		bad := json.Unmarshal(item, &b)
		if year := b.Time.UTC().Year(); bad == nil && (year < 1 || year > 9999) {
			bad = fmt.Errorf("its time is in the year %d", year)
		}
		if bad != nil {
			err = cmp.Or(err, r.errorf(dataset.ErrCorrupt, "a backup is malformed: %w", bad))
			continue
		}
		list = append(list, b)
	}
	return list, err
}

// Get returns the backup with an ID: 64 digits, or the first 8 of them. It fails with ErrNotFound if the repository has
// no such backup. It takes no lock.
func (r *Repository) Get(ctx context.Context, id string) (Backup, error) {
	if err := r.checkIDs(id); err != nil {
		return Backup{}, err
	}
	list, err := r.list(ctx, "--no-lock", id)
	if err == nil && len(list) != 1 {
		err = r.errorf(dataset.ErrNotFound, "it has no such backup")
	}
	if err != nil {
		return Backup{}, err
	}
	return list[0], nil
}

// File returns the content of a file in the top folder of a backup. It fails with ErrInvalid if the file is larger than
// limit bytes. It takes a lock only if it must: see peek.
func (r *Repository) File(ctx context.Context, id, name string, limit int64) ([]byte, error) {
	if err := r.checkIDs(id); err != nil {
		return nil, err
	}
	out, err := r.peek(ctx, command{time: longTime}, int(limit), "dump", "--", id, "/"+name)
	if out.Overflowed() {
		return nil, r.errorf(dataset.ErrInvalid, "file %s of backup %s has more than %d bytes", name, id, limit)
	}
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// peek runs a command that only reads, and returns the first limit bytes of its output. If there are more, it ends the
// command. It first reads without a lock, which takes restic 0.2 seconds. A prune can make that read fail. Only a read
// with a lock shows that the data are missing or damaged, so peek then takes one.
func (r *Repository) peek(ctx context.Context, c command, limit int, args ...string) (*run.Head, error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	out := run.NewHead(limit)
	c.stdout, out.Full = out, stop
	_, err := r.run(running, c, slices.Insert(slices.Clone(args), 1, "--no-lock")...)
	if running.Err() == nil && (errors.Is(err, dataset.ErrCorrupt) || errors.Is(err, dataset.ErrInternal)) {
		out = run.NewHead(limit)
		c.stdout, out.Full = out, stop
		_, err = r.read(running, c, args...)
	}
	return out, err
}

// Dump writes the content of a file in the top folder of a backup to w. After an error, w may have a part of the
// content. Dump takes no lock.
func (r *Repository) Dump(ctx context.Context, id, name string, w io.Writer) error {
	if err := r.checkIDs(id); err != nil {
		return err
	}
	_, err := r.run(ctx, command{time: longTime, stdout: w}, "dump", "--no-lock", "--", id, "/"+name)
	return err
}

// Restore writes the files of a backup below the folder target. It fails if a single file or attribute cannot be
// restored: the folder then has a part of the files. id is the ID of a backup, or its first 8 digits.
func (r *Repository) Restore(ctx context.Context, id, target string) error {
	if err := r.checkIDs(id); err != nil {
		return err
	}
	_, err := r.read(ctx, command{time: longTime}, append(r.restore(target), "--", id)...)
	return err
}

// restore returns the first arguments of a run that restores files below the folder target.
func (r *Repository) restore(target string) []string {
	args := []string{"restore", "--target=" + target}
	if r.sparse {
		args = append(args, "--sparse") // zeros of at least one block become holes
	}
	return args
}

// RestoreFolder writes a top folder of a backup, with its name, below the folder target, as Restore does. With compare,
// restic reads everything from the repository, not from its cache, and reads the files again. RestoreFolder then fails
// with ErrCorrupt if one differs from the backup.
func (r *Repository) RestoreFolder(ctx context.Context, id, folder, target string, compare bool) error {
	if err := r.checkIDs(id); err != nil {
		return err
	}
	args := append(r.restore(target), "--include=/"+folder)
	c := command{time: longTime}
	if compare {
		cache, remove, err := r.options.emptyCache()
		if err != nil {
			return r.failed(err)
		}
		defer remove()
		args, c.idle = append(args, "--verify", cache), true
	}
	_, err := r.read(ctx, c, append(args, "--", id)...)
	return err
}

// RestoreSize returns how many bytes a restore of a backup writes: the sum of the sizes of the files, with the holes of
// sparse files. It fails with ErrNotFound if the repository has no such backup. It takes a lock only if it must: see
// peek.
func (r *Repository) RestoreSize(ctx context.Context, id string) (dataset.Size, error) {
	if err := r.checkIDs(id); err != nil {
		return 0, err
	}
	c := command{time: longTime, strict: true}
	out, err := r.peek(ctx, c, maxOutput, "stats", "--mode=restore-size", "--json", id)
	if err != nil {
		return 0, err
	}
	var s Stats
	err = r.decode(out.Bytes(), &s)
	if err == nil && s.Backups == 0 { // restic exits with 0
		err = r.errorf(dataset.ErrNotFound, "it has no such backup")
	}
	return dataset.Size(s.Bytes), err
}

// CheckFolders reads all folders of a backup from the repository, not from the cache. It fails with ErrCorrupt if one
// is damaged or missing. Like a backup, it is killed once the pool has no space.
func (r *Repository) CheckFolders(ctx context.Context, id string) error {
	if err := r.checkIDs(id); err != nil {
		return err
	}
	cache, remove, err := r.options.emptyCache()
	if err != nil {
		return r.failed(err)
	}
	defer remove()
	c := command{time: longTime, strict: true, paced: true}
	_, err = r.peek(ctx, c, maxOutput, "stats", "--mode=restore-size", cache, id)
	return err
}

// Remove removes backups. Their data remain until Prune is called. A backup that does not exist is ignored.
// If a backup cannot be read, Remove removes the others, and fails with ErrCorrupt or ErrOffline. It fails with
// ErrAppendOnly if the server refuses to remove backups.
func (r *Repository) Remove(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil // without an ID, restic would apply rules
	}
	if err := r.checkIDs(ids...); err != nil {
		return err
	}
	_, err := r.run(ctx, command{time: longTime, strict: true}, append([]string{"forget", "--"}, ids...)...)
	return r.withRoom(err, 0)
}

// checkIDs fails with ErrInvalid unless each ID has the form of a backup's: 64 digits, or the first 8 of them. restic
// also accepts words, such as latest, and any other number of digits.
func (r *Repository) checkIDs(ids ...string) error {
	for _, id := range ids {
		if !regexp.MustCompile(`^[0-9a-f]{8}([0-9a-f]{56})?$`).MatchString(id) {
			return r.errorf(dataset.ErrInvalid, "bad ID of a backup %q: expected 64 hexadecimal digits, or the first "+
				"8 of them", dataset.Clip(id))
		}
	}
	return nil
}

// Prune removes the data that no backup needs. Meanwhile, no other process can use the repository. If the repository
// has no space for the data that restic would write again, Prune only removes the files of which no backup needs a
// part. It fails with ErrAppendOnly if the server refuses to remove data.
func (r *Repository) Prune(ctx context.Context) error {
	c := command{time: longTime, idle: true}
	res, err := r.run(ctx, c, "prune")
	if errors.Is(err, dataset.ErrNoSpace) && !strings.Contains(string(res.Stderr), cannotLock) {
		_, err = r.run(ctx, c, "prune", "--max-repack-size=0")
	}
	return r.withRoom(err, r.options.indexSize())
}

// lockRoom is more space than restic needs for its lock.
const lockRoom = 1 << 20

// withRoom says in the error of a removal from a full repository how much space must be freed by other means: for the
// lock of restic, and for what else restic writes before it removes anything.
func (r *Repository) withRoom(err error, more int64) error {
	if !errors.Is(err, dataset.ErrNoSpace) {
		return err
	}
	return r.errorf(dataset.ErrNoSpace, "it has no space left, and a removal first writes to it: free at least %s of "+
		"its space by other means", dataset.Size(lockRoom+more).Human())
}

// indexSize returns the size of the index of a repository in a directory. A prune first writes a new index. For other
// repositories, the size is not known.
func (o Options) indexSize() (bytes int64) {
	files, _ := filepath.Glob(filepath.Join(o.URL, "index", "*"))
	for _, path := range files {
		if info, err := os.Stat(path); err == nil {
			bytes += info.Size()
		}
	}
	return bytes
}

// Stats has the size of a repository and the number of its backups.
type Stats struct {
	Bytes   int64 `json:"total_size"` // as stored: compressed, and each piece of data once
	Backups int64 `json:"snapshots_count"`
}

// Stats measures the repository. It fails if a backup cannot be read.
func (r *Repository) Stats(ctx context.Context) (s Stats, err error) {
	err = r.json(ctx, command{time: longTime, strict: true}, &s, "stats", "--mode=raw-data")
	return s, err
}

// maxLine bounds a line of restic's output. Longer lines are ignored.
const maxLine = 1 << 20

// lines calls each for every line that is written to it.
type lines struct {
	each    func(line []byte)
	rest    []byte
	tooLong bool
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			break
		}
		if !l.tooLong && len(l.rest)+end <= maxLine {
			l.rest = append(l.rest, p[:end]...)
			l.each(l.rest)
		}
		l.rest, l.tooLong, p = l.rest[:0], false, p[end+1:]
	}
	if l.tooLong = l.tooLong || len(l.rest)+len(p) > maxLine; !l.tooLong {
		l.rest = append(l.rest, p...)
	}
	return n, nil
}
