package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// referenceHelp says in the help of a command how an argument names a backup.
const referenceHelp = `BACKUP is the ID of a backup, or its first
digits, at least 8 of them.`

// patience is how long one of several repositories may take to list its backups.
const patience = time.Minute

// fetch returns the backups of a volume or, if volume is empty, of all volumes, oldest first: those in one repository
// or, if repository is empty, in all recorded ones, which are read at the same time. If a part of the backups cannot be
// read, fetch returns the others, and incomplete is the first error. It fails if no repository can be read.
func fetch(ctx context.Context, c cli.Remote, repository, volume string) (list []api.VolumeBackup,
	incomplete, err error) {
	names := []string{repository}
	if repository == "" {
		recorded, err := c.Repositories(ctx)
		if err != nil {
			return nil, nil, err
		}
		names = nil
		for _, r := range recorded {
			names = append(names, r.Name)
		}
	}
	limited := ctx
	if len(names) > 1 { // one that does not answer must not hide what the others have
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	lists, errs := make([]api.BackupList, len(names)), make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			lists[i], errs[i] = c.VolumeBackups(limited, name, volume)
			if errs[i] != nil && limited.Err() != nil && ctx.Err() == nil {
				errs[i] = dataset.Errorf(dataset.ErrOffline, "repository %s did not answer within %s (with "+
					"--repository, another one is read alone, and this one without a limit)", name, patience)
			}
		})
	}
	all.Wait()
	failed := 0
	for i, l := range lists {
		err := errs[i]
		if err != nil {
			failed++
		} else {
			err = l.Problem.Err()
		}
		if incomplete == nil {
			incomplete = err
		}
		list = append(list, l.Items...)
	}
	if failed > 0 && failed == len(names) {
		return nil, nil, incomplete
	}
	slices.SortStableFunc(list, func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) })
	return list, incomplete, nil
}

// byAge returns backups, which are sorted by time, oldest first. A backup with a time in the future counts as the
// oldest: a clock was ahead when it was made.
func byAge(now time.Time, list []api.VolumeBackup) []api.VolumeBackup {
	var future, past []api.VolumeBackup
	for _, b := range list {
		if b.Taken.After(now.Add(dataset.MaxClockSkew)) {
			future = append(future, b)
		} else {
			past = append(past, b)
		}
	}
	return append(future, past...)
}

// noteFuture prints that a backup with a time in the future is not used as the newest.
func noteFuture(a *cli.App, b api.VolumeBackup) {
	_, _ = fmt.Fprintf(a.ErrOut, "drover: backup %s of volume %s is dated %s, in the future: not taken as the newest "+
		"(give its ID to use it: drover backup restore %[1]s NEW)\n", short(b.ID), cli.Clean(b.Volume),
		cli.When(a.Now(), b.Taken))
}

// ofVolume returns the backups that the name of a volume means, oldest first: those of its dataset or, if no volume has
// the name, those that this cluster made of the only volume that had it. Backups of other clusters, and of other
// volumes that had the name, are only taken by their IDs. If a part of the backups cannot be read, incomplete says why.
//
// ofVolume reads one repository: see repositoryOf. Everybody with the password of a repository can store backups there
// that claim to be of any volume, so one that is shared must not add to the backups of another one.
func ofVolume(ctx context.Context, c cli.Remote, now time.Time, repository, volume string) (list []api.VolumeBackup,
	incomplete, err error) {
	v, err := c.Volume(ctx, volume)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil, nil, err
	}
	exists, named := err == nil && v.HasName(volume), volume
	if exists {
		named = "" // the volume may have had another name
	}
	if repository == "" {
		if repository, err = repositoryOf(ctx, c, volume, v.Profile.Backup.To); err != nil {
			return nil, nil, err
		}
	}
	all, incomplete, err := fetch(ctx, c, repository, named)
	if err != nil {
		return nil, nil, err
	}
	of, others, earlier := map[uuid.UUID]bool{}, 0, 0
	for _, b := range all {
		switch {
		case b.Incomplete: // its push has not ended
		case exists && b.Dataset == v.ID, !exists && !b.Elsewhere:
			list, of[b.Dataset] = append(list, b), true
		case b.Volume == volume && !b.Elsewhere:
			earlier++
		case b.Volume == volume:
			others++
		}
	}
	if s := v.Backups; exists && s != nil && s.Newest != "" && repository == v.Profile.Backup.To &&
		!slices.ContainsFunc(list, func(b api.VolumeBackup) bool {
			return b.ID == s.Newest || !b.Taken.Before(s.Last) && !b.Taken.After(now.Add(dataset.MaxClockSkew))
		}) {
		incomplete = cmp.Or(incomplete, dataset.Errorf(dataset.ErrNotFound,
			"repository %s lacks the last scheduled one, %s", repository, short(s.Newest)))
	}
	switch {
	case len(of) > 1:
		return nil, nil, dataset.Errorf(dataset.ErrAmbiguous, "%d volumes had the name %s, and none has it now (give "+
			"the ID of a backup: drover backup ls %[2]s -o wide)", len(of), volume)
	case len(list) == 0 && earlier > 0:
		return nil, nil, dataset.Errorf(dataset.ErrNotFound, "the volume that has the name %s now has no backup yet; "+
			"backups of an earlier volume of this name: %d (give the ID of one: drover backup ls %[1]s)", volume,
			earlier)
	case len(list) == 0 && others > 0:
		return nil, nil, dataset.Errorf(dataset.ErrNotFound, "no backup of volume %s of this cluster; backups of "+
			"other volumes of this name: %d (give the ID of one: drover backup ls %[1]s)", volume, others)
	}
	return list, incomplete, nil
}

// repositoryOf returns the repository in which the backups of a volume are searched: the one that its profile names or,
// if it names none, the only recorded one. The result is empty if none is recorded.
func repositoryOf(ctx context.Context, c cli.Remote, volume, ofProfile string) (string, error) {
	if ofProfile != "" {
		return ofProfile, nil
	}
	recorded, err := c.Repositories(ctx)
	if err != nil || len(recorded) == 0 {
		return "", err
	}
	if len(recorded) == 1 {
		return recorded[0].Name, nil
	}
	names := make([]string, len(recorded))
	for i, r := range recorded {
		names[i] = r.Name
	}
	return "", dataset.Errorf(dataset.ErrAmbiguous, "several repositories are recorded, and no profile says which one "+
		"has the backups of volume %s (use --repository: %s)", volume, dataset.FormatChoices(names))
}

// idRE matches the ID of a backup, and its first digits: at least as many as the lists show, because with fewer, a
// typing error could name a backup.
var idRE = regexp.MustCompile(fmt.Sprintf(`^[0-9a-fA-F]{%d,64}$`, shortID))

// findWithRecord is find, and usually returns the backup with its record. If only one repository can have the backup,
// it reads the backup at once, without a list of all.
func findWithRecord(ctx context.Context, c cli.Remote, repository, id string) (api.VolumeBackup, error) {
	only := repository
	if recorded, err := c.Repositories(ctx); only == "" && err == nil && len(recorded) == 1 {
		only = recorded[0].Name
	}
	if only == "" {
		return find(ctx, c, repository, id)
	}
	prefix := strings.ToLower(id)
	requested := prefix
	if len(prefix) < 64 {
		requested = prefix[:shortID] // an agent accepts all digits or the first 8
	}
	b, err := c.VolumeBackup(ctx, only, requested)
	switch dataset.KindOf(err) {
	case nil:
		if strings.HasPrefix(b.ID, prefix) {
			return b, nil
		}
	case dataset.ErrOffline, dataset.ErrForbidden, dataset.ErrInUse, dataset.ErrUnavailable:
		return b, err // a list would fail, too
	}
	return find(ctx, c, repository, id) // it explains best what is wrong
}

func hasVolume(ctx context.Context, c cli.Remote, name string) (bool, error) {
	if dataset.CheckName(name) != nil {
		return false, nil
	}
	v, err := c.Volume(ctx, name)
	if errors.Is(err, dataset.ErrNotFound) {
		return false, nil
	}
	return err == nil && v.HasName(name), err
}

// findOne returns the backup with an ID, or the newest backup of a volume, which may be lost. What can be an ID is
// taken for an ID first. findOne fails with dataset.ErrAmbiguous if a volume has the name, too: see nameError.
// incomplete is the reason if a backup or the repository cannot be read: the volume may have a newer backup.
func findOne(ctx context.Context, a *cli.App, c cli.Remote, repository, ref string) (b api.VolumeBackup, incomplete,
	err error) {
	exists, err := hasVolume(ctx, c, ref)
	if err != nil {
		return b, nil, err
	}
	var noID error // why no backup has the ID
	if idRE.MatchString(ref) || dataset.CheckName(ref) != nil {
		b, noID = findWithRecord(ctx, c, repository, ref)
		if noID == nil && exists {
			noID = nameError(ref)
		}
		if !errors.Is(noID, dataset.ErrNotFound) {
			return b, nil, noID
		}
	}
	newest, incomplete, err := newestOf(ctx, a, c, repository, ref)
	switch {
	case newest != nil:
		return *newest, incomplete, nil
	case cmp.Or(err, incomplete, noID) == nil:
		err = noBackupError(ctx, c, ref)
	}
	return b, nil, cmp.Or(err, incomplete, noID)
}

// nameError returns the error for an argument that is the name of a volume, and with which the ID of a backup begins.
// It is nil if the argument is a whole ID, because only one backup has it. A part of an ID is ambiguous: a volume can
// have that name, and everybody with the password of any repository can store a backup there whose ID begins with the
// digits of a name.
func nameError(id string) error {
	if len(id) == 64 {
		return nil
	}
	return dataset.Errorf(dataset.ErrAmbiguous, "%s is the name of a volume, and the ID of a backup begins with it "+
		"(give all 64 digits of an ID: drover backup ls -o wide)", id)
}

// noBackupError returns the error for an argument that names no backup.
func noBackupError(ctx context.Context, c cli.Remote, ref string) error {
	if recorded, err := c.Repositories(ctx); err == nil && len(recorded) == 0 {
		return dataset.Errorf(dataset.ErrNotFound,
			"no backup of a volume %q: no repository is recorded (drover repository add)", ref)
	}
	return dataset.Errorf(dataset.ErrNotFound,
		"no backup of a volume %q, and none with this ID (drover backup ls lists the backups)", ref)
}

// findForRestore is findOne. If a newer backup of the volume may exist, it prints that.
func findForRestore(ctx context.Context, a *cli.App, c cli.Remote, repository, ref string) (api.VolumeBackup, error) {
	b, incomplete, err := findOne(ctx, a, c, repository, ref)
	if err == nil && incomplete != nil {
		a.PrintError(ctx, fmt.Errorf("volume %s may have, or may have had, a newer backup: %w", ref, incomplete))
	}
	return b, err
}

// findNewest is findOne. If a newer backup of the volume may exist, it fails: an older one must not hide the damage.
func findNewest(ctx context.Context, a *cli.App, c cli.Remote, repository, ref string) (api.VolumeBackup, error) {
	b, incomplete, err := findOne(ctx, a, c, repository, ref)
	if err == nil && incomplete != nil {
		return api.VolumeBackup{}, fmt.Errorf("which backup of volume %s is the newest is not known (give the ID of "+
			"one, or --repository): %w", ref, incomplete)
	}
	return b, err
}

// find returns the backup whose ID begins with the given digits, in one repository or, if repository is empty, in all
// recorded ones. It ignores backups that cannot be read if it finds one, and fails with their error if it finds none.
// If all can be read, it fails with dataset.ErrNotFound if there is none. It fails with dataset.ErrAmbiguous if there
// are several, and with dataset.ErrInvalid if id does not match idRE.
func find(ctx context.Context, c cli.Remote, repository, id string) (b api.VolumeBackup, err error) {
	if !idRE.MatchString(id) {
		return b, dataset.Errorf(dataset.ErrInvalid, "bad ID of a backup %q: expected at least %d hexadecimal digits "+
			"(drover backup ls shows the IDs)", dataset.Clip(id), shortID)
	}
	list, incomplete, err := fetch(ctx, c, repository, "")
	if err != nil {
		return b, err
	}
	var found []api.VolumeBackup
	var ids, repositories []string
	for _, b := range list {
		if strings.HasPrefix(b.ID, strings.ToLower(id)) {
			found = append(found, b)
			ids, repositories = append(ids, b.ID), append(repositories, b.Repository)
		}
	}
	named := func(b api.VolumeBackup) bool { return b.Volume == id }
	different := len(slices.Compact(slices.Sorted(slices.Values(ids))))
	switch {
	case len(found) > 0 && nameError(id) != nil && slices.ContainsFunc(list, named):
		return b, nameError(id)
	case len(found) == 1:
		return found[0], nil
	case different > 1:
		return b, dataset.Errorf(dataset.ErrAmbiguous, "%d backups have IDs that begin with %s (use more digits)",
			different, dataset.Clip(id))
	case different == 1: // a repository that is recorded under two names, or a copy of it
		return b, dataset.Errorf(dataset.ErrAmbiguous,
			"backup %s is in several repositories (use --repository: %s)", short(ids[0]),
			dataset.FormatChoices(repositories))
	case incomplete != nil:
		return b, fmt.Errorf("no backup that can be read has an ID that begins with %s: %w", dataset.Clip(id),
			incomplete)
	}
	return b, dataset.Errorf(dataset.ErrNotFound, "no such backup: %s (drover backup ls shows the IDs)",
		dataset.Clip(id))
}

// shortUUID returns the first digits of the UUID of a version, or "" if it is uuid.Nil.
func shortUUID(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()[:cli.ShortLength]
}

func parsePlace(text string) (repository, name string, err error) {
	repository, name, named := strings.Cut(text, "/")
	if err := dataset.CheckRepositoryName(repository); err != nil {
		return "", "", fmt.Errorf("bad repository %q: expected REPOSITORY or REPOSITORY/NAME: %w",
			dataset.Clip(text), err)
	}
	if named {
		err = dataset.CheckName(name)
	}
	return repository, name, err
}

// source names the version that is pulled: the one whose UUID begins with prefix or, if prefix is empty, the newest.
type source struct{ repository, name, prefix string }

// versionRE matches the first digits of the UUID of a version.
var versionRE = regexp.MustCompile(`^[0-9a-f]{4}[0-9a-f-]{0,32}$`)

// parseSource parses REPOSITORY/NAME[@VERSION].
func parseSource(text string) (s source, err error) {
	text, prefix, at := strings.Cut(text, "@")
	if s.repository, s.name, err = parsePlace(text); err != nil {
		return s, err
	}
	if s.name == "" {
		return s, dataset.Errorf(dataset.ErrInvalid, "missing name: expected %s/NAME (drover repository versions "+
			"%[1]s shows the names)", s.repository)
	}
	s.prefix = strings.ToLower(prefix)
	if at && !versionRE.MatchString(s.prefix) {
		return s, dataset.Errorf(dataset.ErrInvalid, "bad version %q: expected at least 4 digits of its UUID (drover "+
			"repository versions %s shows them)", dataset.Clip(prefix), s)
	}
	return s, nil
}

func (s source) String() string { return s.repository + "/" + s.name }

// find returns the version to pull. It fails with dataset.ErrNotFound if there is none, or if its data was removed, and
// with dataset.ErrAmbiguous if there are several.
func (s source) find(h dataset.History) (v dataset.PushedVersion, err error) {
	found := h.Newest(s.name)
	what := "newest versions, because both sides have changed"
	if s.prefix != "" {
		found, what = nil, "versions whose UUIDs begin with "+s.prefix
		for _, v := range h.OfName(s.name) {
			if strings.HasPrefix(v.ID.String(), s.prefix) {
				found = append(found, v)
			}
		}
	}
	switch {
	case len(found) == 0 && s.prefix != "":
		return v, dataset.Errorf(dataset.ErrNotFound, "no such version: %s@%s (drover repository versions %[1]s "+
			"shows them)", s, s.prefix)
	case len(found) == 0:
		return v, dataset.Errorf(dataset.ErrNotFound, "no version of %s can be pulled (drover repository versions %s "+
			"shows what the repository has)", s, s.repository)
	case len(found) > 1:
		var ids []string
		for _, v := range found {
			ids = append(ids, shortUUID(v.ID))
		}
		return v, dataset.Errorf(dataset.ErrAmbiguous, "%s has %d %s (name one, as in drover pull %s@VERSION NEW: %s)",
			s, len(found), what, s, dataset.FormatChoices(ids))
	case found[0].Removed:
		return v, dataset.Errorf(dataset.ErrNotFound, "the data of version %s of %s was removed (drover repository "+
			"versions %[2]s shows the others)", shortUUID(found[0].ID), s)
	}
	return found[0], nil
}

// existsError returns the error for a pull of a version into a volume that exists and does not continue the version;
// nil if the volume continues it. The error has both histories.
func (s source) existsError(h dataset.History, existing api.Volume, v dataset.PushedVersion) error {
	bases := h.Bases(existing.ID, existing.BasedOn)
	var ids []uuid.UUID
	for _, b := range bases {
		ids = append(ids, b.ID)
	}
	known := h.Ancestors(ids...)
	if known[v.ID] {
		return nil
	}
	lacks := 0
	for _, other := range h.OfName(s.name) {
		if !known[other.ID] {
			lacks++
		}
	}
	ours := "no version of it"
	if v, ok := dataset.LatestBase(bases, s.name); ok {
		ours = "version " + v.Describe()
	}
	from := s.String()
	if s.prefix != "" {
		from += "@" + s.prefix
	}
	return dataset.Errorf(dataset.ErrExists, "volume %s exists, and a pull never changes an existing volume: "+
		"it continues %s, and lacks version %s. In all, it lacks %s of %s (pull that version as another volume: "+
		"drover pull %s --as NEW)", existing.Volume, ours, v.Describe(), cli.Count(lacks, "version"), s, from)
}
