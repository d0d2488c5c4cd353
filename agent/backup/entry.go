package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// EntryName is the only file of an entry. Its content is for people who look at the repository with restic: Drover
// reads the tags.
const EntryName = "version.json"

// The tags of an entry, besides tagOperation, tagVolume and tagDataset. TagEntry has no value. An entry does not have
// TagDrover, because it is no backup.
const (
	TagEntry  = "drover-version"
	tagFormat = "format"
	tagName   = "name"
	tagParent = "parent"
	tagBackup = "backup"
	tagNode   = "node"
	tagBy     = "by"
)

// entryFormat is the format of the tags of an entry that this program writes, and the latest that it reads.
const entryFormat = 1

// entryTags returns the tags of the entry of a version for restic. Node and By can have any character, and tags must
// have no comma, so both are escaped as in a URL.
func entryTags(v dataset.PushedVersion) []string {
	list := []string{
		TagEntry, tagFormat + "=" + strconv.Itoa(entryFormat), OperationTag(v.ID), tagName + "=" + v.Name,
		tagBackup + "=" + v.Backup, VolumeTag(v.Volume), DatasetTag(v.Dataset),
		tagNode + "=" + url.QueryEscape(v.Node), tagBy + "=" + url.QueryEscape(v.By),
	}
	if v.Parent != uuid.Nil {
		list = append(list, tagParent+"="+v.Parent.String())
	}
	return list
}

// parseEntry returns the version that an entry names. ok is false if b is no entry. It fails with
// dataset.ErrUnsupported if a later version of Drover wrote the entry, and with dataset.ErrCorrupt if a tag is missing
// or bad: everybody with the password of the repository can write an entry.
func parseEntry(b restic.Backup) (v dataset.PushedVersion, ok bool, err error) {
	if !slices.Contains(b.Tags, TagEntry) {
		return v, false, nil
	}
	tags := map[string]string{}
	for _, tag := range b.Tags {
		key, value, _ := strings.Cut(tag, "=")
		tags[key] = value
	}
	format, err := strconv.Atoi(tags[tagFormat])
	if err == nil && format > entryFormat {
		return v, true, dataset.Errorf(dataset.ErrUnsupported, "the entry %s has format %d, and this drover reads "+
			"formats up to %d: upgrade this drover", short(b.ID), format, entryFormat)
	}
	v = dataset.PushedVersion{
		Name: tags[tagName], Backup: tags[tagBackup], Pushed: b.Time, Volume: tags[tagVolume],
		Node: readable(tags[tagNode]), By: readable(tags[tagBy]),
	}
	var errs [3]error
	v.ID, errs[0] = uuid.Parse(tags[tagOperation])
	v.Dataset, errs[1] = uuid.Parse(tags[tagDataset])
	if parent := tags[tagParent]; parent != "" {
		v.Parent, errs[2] = uuid.Parse(parent)
	}
	err = cmp.Or(err, errs[0], errs[1], errs[2], dataset.CheckName(v.Name), dataset.CheckName(v.Volume),
		dataset.CheckBackupID(v.Backup))
	if err != nil || format < 1 || v.ID == uuid.Nil || v.Dataset == uuid.Nil || v.Parent == v.ID {
		return v, true, dataset.Errorf(dataset.ErrCorrupt, "the entry %s has bad tags", short(b.ID))
	}
	return v, true, nil
}

// readable unescapes a text, removes the characters that are not printable, and truncates it.
func readable(escaped string) string {
	text, err := url.QueryUnescape(escaped)
	if err != nil {
		return ""
	}
	return dataset.Clip(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text))
}

// readHistory returns the versions in a list of all snapshots of a repository, in the order in which they were pushed.
// If entries cannot be read, it returns the other versions and the first error.
func readHistory(repository string, list []restic.Backup) (h dataset.History, err error) {
	backups := map[string]restic.Backup{}
	for _, b := range list {
		if _, ok := ParseTags(b.Tags); ok {
			backups[b.ID] = b
		}
	}
	for _, b := range list {
		v, ok, bad := parseEntry(b)
		if bad != nil {
			err = cmp.Or(err, bad)
			continue
		}
		data, there := backups[v.Backup]
		v.Repository, v.Taken, v.Removed = repository, data.Time, !there
		twice := slices.IndexFunc(h, func(o dataset.PushedVersion) bool { return o.ID == v.ID })
		switch {
		case !ok:
		case twice < 0:
			h = append(h, v)
		case h[twice].Removed: // a repeated operation has made the version again
			h[twice] = v
		}
	}
	slices.SortStableFunc(h, func(x, y dataset.PushedVersion) int { return x.Pushed.Compare(y.Pushed) })
	newest := map[string][]dataset.PushedVersion{}
	for i, v := range h {
		if _, known := newest[v.Name]; !known {
			newest[v.Name] = h.Newest(v.Name)
		}
		h[i].Newest = slices.ContainsFunc(newest[v.Name], func(n dataset.PushedVersion) bool { return n.ID == v.ID })
	}
	return h, err
}

// Versions returns the versions in a repository, in the order in which they were pushed: those of one name or, if name
// is empty, all. Versions that cannot be read are left out, and Problem of the list says so. If none can be read,
// Versions fails.
func (c *Catalog) Versions(ctx context.Context, repository, name string) (out api.VersionList, err error) {
	r, err := c.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return out, err
	}
	if name != "" {
		if err := dataset.CheckName(name); err != nil {
			return out, err
		}
	}
	list, err := r.Backups(ctx)
	if err != nil && len(list) == 0 {
		return out, inRepository(repository, err)
	}
	h, herr := readHistory(repository, list)
	out = api.VersionList{Items: h, Problem: dataset.ProblemOf(inRepository(repository, cmp.Or(err, herr)))}
	if name != "" {
		out.Items = h.OfName(name)
	}
	return out, nil
}

// inRepository adds the name of a repository to an error about its versions.
func inRepository(repository string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return dataset.Errorf(dataset.KindOf(err), "versions in %s: %w", repository, err)
}

// entryText returns the content of the file EntryName.
func entryText(v dataset.PushedVersion) ([]byte, error) { return json.Marshal(v) }
