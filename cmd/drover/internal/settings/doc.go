// Package settings reads the configuration and the profiles of this host, and lists the backends of this program.
// Packages servers, profiles and verification call it, because their commands need the settings without a server.
// Package main writes ReferencePages as man pages, and package supportbundle uses the default places of the files.
// Package settings keeps no state.
package settings
