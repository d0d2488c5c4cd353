package backups

import (
	"cmp"
	"slices"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// imageRestore is the volume that a user wants from a backup of an image.
type imageRestore struct {
	options     map[string]string // those that the user chose
	profile     string            // empty: the default profile
	profileSize bool
	profiles    []api.ListedProfile
}

// hasImage reports whether a backup is of the image of its volume, and not of the files.
func hasImage(b api.VolumeBackup) bool { return b.Record != nil && b.Record.Image > 0 }

// fit sets the size and the filesystem of the backed-up volume in the options of the new one: no other volume can have
// its image. It fails with dataset.ErrUnsupported if the user wants others, or if the profile encrypts. It does nothing
// for a backup of files.
func (w imageRestore) fit(b api.VolumeBackup, options map[string]string) error {
	if !hasImage(b) {
		return nil
	}
	i := slices.IndexFunc(w.profiles, func(p api.ListedProfile) bool {
		return p.Name == w.profile || w.profile == "" && p.Default
	})
	profile := api.ListedProfile{}
	if i >= 0 {
		profile = w.profiles[i]
	}
	if profile.Encryption.Wanted() {
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s has the image of volume %s, and profile %s encrypts "+
			"(choose a profile that does not)", short(b.ID), b.Volume, profile.Name)
	}
	if err := w.checkSize(b, profile.Size); err != nil {
		return err
	}
	if b.Record.Size > 0 {
		options["size"] = b.Record.Size.String()
	}
	fs := b.Record.Filesystem
	if chosen := cmp.Or(w.options["fs"], fs); chosen != fs {
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s of volume %s: image backups are restored with their "+
			"filesystem, %s", short(b.ID), b.Volume, cmp.Or(dataset.Clip(fs), "which is not recorded"))
	}
	if fs == "" {
		return nil
	}
	options["fs"] = fs
	_, err := dataset.ParseOptions(map[string]string{"fs": fs}) // another program can have written the backup
	return err
}

// checkSize fails if the user wants a volume of another size than that of the backed-up volume.
func (w imageRestore) checkSize(b api.VolumeBackup, ofProfile dataset.Size) error {
	had, want := b.Record.Size, b.Record.Size
	if text, chosen := w.options["size"]; chosen {
		var err error
		if want, err = dataset.ParseSize(text); err != nil {
			return err
		}
	} else if w.profileSize {
		want = ofProfile
	}
	if want == had || had.RoundedFrom(want) {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported, "backup %s of volume %s: image backups are restored with their "+
		"size, %s; then drover volume resize", short(b.ID), b.Volume, had.Readable(0))
}
