package api

// CreateVolume asks for a volume.
type CreateVolume struct {
	Volume  string            `json:"volume" doc:"the spec: NAME, NAME@PROFILE or NAME@snapshot-PREFIX" example:"db@gold"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

// ResizeVolume asks for another size.
type ResizeVolume struct {
	Size string `json:"size" doc:"the size to be" example:"20GiB"`
}

// RekeyVolume asks for a data key to be wrapped anew.
type RekeyVolume struct {
	OldKeyFile string `json:"old_key_file,omitempty" doc:"absolute and clean path of the file on the volume's home with the key that wraps it now, where that is no more where the profile says"`
}

// SetProfile asks for another profile.
type SetProfile struct {
	Profile string `json:"profile" doc:"the profile to be"`
}

// ProtectVolume says whether deletes are refused.
type ProtectVolume struct {
	Protect bool `json:"protect" doc:"whether deletes are refused"`
}

// ImportVolume asks for a volume with what lies in a folder of its host.
type ImportVolume struct {
	Path    string            `json:"path" doc:"the folder, on the host that the volume is made on: an absolute and clean path. One that contains, or lies in, a pool or Drover's own root is refused"`
	Live    bool              `json:"live,omitempty" doc:"the folder may be in use"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}
