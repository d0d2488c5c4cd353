package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/linux/crypt"
)

// keyCheck examines the keys of the datasets and profiles of this node. It reads the key at each place once. There is
// one exception: a program can print a separate key for each volume. If a volume needs another key than the one that
// the program printed, keyCheck runs the program again for that volume.
type keyCheck struct {
	*Report
	doctor      *Doctor
	now         map[string]dataset.Profile // control's profiles that encrypt, by name
	have        map[string]keys.Key        // by place
	missingKeys map[string]*missingKey
}

// missingKey is a place without a key, and the datasets and profiles that need the key.
type missingKey struct {
	why                     error
	homes, copies, profiles []string
	trashed                 []dataset.Dataset
}

// sealedVolume is an encrypted dataset whose home is this node, or a copy of one.
type sealedVolume struct {
	dataset.Dataset
	copied bool
}

func (v sealedVolume) name() string {
	if v.State == dataset.StateTrashed {
		return v.Volume + " in the trash"
	}
	return v.Volume
}

// checkCanEncrypt adds a finding on whether this host can encrypt. volumes are its encrypted datasets, those whose home
// is this node first.
func (c *keyCheck) checkCanEncrypt(volumes []sealedVolume) {
	err := crypt.Available() // not every backend needs it
	can := map[uuid.UUID]bool{}
	for _, p := range c.doctor.Pools.All() {
		if p.Storage != nil && p.Capabilities.Encryption {
			can[p.ID] = true
		}
	}
	volumes = slices.DeleteFunc(slices.Clone(volumes), func(v sealedVolume) bool { return can[v.Pool] })
	switch {
	case err == nil || len(can) > 0 && len(volumes) == 0:
		c.Add(condition.EncryptionWorks, "encryption", "")
	case len(volumes) == 0:
		c.Add(condition.EncryptionUnavailable, "encryption", "", err)
	case volumes[0].copied:
		c.Add(condition.EncryptionForCopies, "encryption", "", err)
	default:
		c.Add(condition.EncryptionMissing, "encryption", "", err)
	}
}

// read returns the key at a place. If the key is missing, it returns the missingKey of that place. The caller adds the
// volume or profile that needs the key to it.
func (c *keyCheck) read(ctx context.Context, from dataset.KeySource, p dataset.Profile) (keys.Key, *missingKey) {
	at := keyPlace(from)
	if key, before := c.have[at]; before {
		return key, nil
	}
	if c.missingKeys[at] == nil {
		p.Encryption = from
		key, err := c.doctor.Keys.OperatorKey(ctx, p, uuid.Nil)
		if err == nil {
			c.have[at] = key
			return key, nil
		}
		c.missingKeys[at] = &missingKey{why: err}
	}
	return keys.Key{}, c.missingKeys[at]
}

func keyPlace(from dataset.KeySource) string {
	switch {
	case from.KeyFile != "":
		return "key file " + dataset.Clip(from.KeyFile)
	case from.Wanted():
		return "key program " + dataset.Clip(from.String())
	}
	return "key"
}

// checkVolume adds a finding if the key of an encrypted volume is absent or wrong here, or if the profile of the volume
// names another key now.
func (c *keyCheck) checkVolume(ctx context.Context, v sealedVolume) {
	if !v.Profile.Encryption.Wanted() {
		c.Add(condition.KeyPlaceLost, "volume "+v.Volume,
			fmt.Sprintf("give profile %s one in profiles.yaml, then drover volume rekey %s", v.Profile.Name, v.Volume),
			v.Encryption.KeyID)
		return
	}
	key, why := c.read(ctx, v.Profile.Encryption, v.Profile)
	switch {
	case why != nil && v.copied:
		why.copies = append(why.copies, v.Volume)
		return
	case why != nil && v.State == dataset.StateTrashed:
		why.trashed = append(why.trashed, v.Dataset)
		return
	case why != nil:
		why.homes = append(why.homes, v.Volume)
		return
	}
	if key.ID() != v.Encryption.KeyID && len(v.Profile.Encryption.Exec) > 0 { // each volume may have a key of its own
		if own, err := c.doctor.Keys.OperatorKey(ctx, v.Profile, v.ID); err == nil {
			key = own
		}
	}
	at, now := keyPlace(v.Profile.Encryption), c.now[v.Profile.Name].Encryption
	rekey := rekeyCommand(v.Dataset)
	switch old := key.ID() != v.Encryption.KeyID; {
	case old && v.copied:
		c.Add(condition.KeyOfCopyDiffers, "volume "+v.Volume, "", v.Encryption.KeyID, at, key.ID())
	case old:
		c.Add(condition.KeyDiffers, "volume "+v.name(), "put the old key back, or: "+rekey+" --old-key-file FILE",
			v.Encryption.KeyID, at, key.ID())
	case now.Wanted() && !now.Equal(v.Profile.Encryption) && !v.copied: // for copies, the home reports it
		if next, why := c.read(ctx, now, v.Profile); why == nil && next.ID() == key.ID() {
			return
		}
		c.Add(condition.KeyReplaced, "volume "+v.name(), rekey, key.ID(), at)
	}
}

// addMissing adds a finding on a missing key, which names everything that needs it.
func (c *keyCheck) addMissing(at string, g *missingKey) {
	row, text, mend := condition.KeyUnneeded, "", "" // a profile without volumes may be meant for other hosts
	switch {
	case len(g.homes) > 0:
		row = condition.KeyMissing
	case len(g.trashed)+len(g.copies) > 0:
		row = condition.KeyForCopies
	}
	var trashed []string
	for _, d := range g.trashed {
		trashed = append(trashed, d.Volume)
	}
	if trashed != nil {
		mend = "put the key back; without it, the data of these volumes is lost (drover trash ls)"
	}
	for _, who := range []struct {
		text  string
		names []string
	}{{"volumes that cannot be mounted", g.homes}, {"volumes in the trash that could not be restored", trashed},
		{"volumes with a copy here that could not be mounted if this node became their home", g.copies},
		{"profiles that cannot create volumes here", g.profiles}} {
		if len(who.names) > 0 {
			text += fmt.Sprintf("; %s: %s", who.text, countedNames(who.names))
		}
	}
	c.Add(row, at, mend, g.why, text)
}

// countedNames returns the number of names, and the names.
func countedNames(names []string) string {
	const shown = 50
	more := ""
	if n := len(names) - shown; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%d (%s%s)", len(names), strings.Join(names[:min(len(names), shown)], ", "), more)
}

// rekeyCommand returns the command that wraps the data key of a volume again.
func rekeyCommand(d dataset.Dataset) string {
	rekey := "drover volume rekey " + d.Volume
	if d.State == dataset.StateTrashed {
		rekey = "drover trash restore " + d.ID.String()[:8] + ", then " + rekey
	}
	return rekey
}
